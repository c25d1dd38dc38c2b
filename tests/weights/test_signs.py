"""Weights of which only signs are kept."""

import torch

from spikeconv import ops
from spikeconv.config import SpikeConfig
from spikeconv.weights import rounding_of
from spikeconv.weights.rtn import quantize_blocks


def test_signs_and_scales() -> None:
    weight = torch.randn(7, 50)
    weight[2] = 0
    weight[3, 4] = 0
    for bits in ("1-1.58", "1.58-1.58"):
        config = SpikeConfig.parse({"bits": bits})
        assert config.bits == bits
        whole = quantize_blocks([weight], 7, rounding_of(config.weights))
        parts = quantize_blocks(weight.split(3), 7, rounding_of(config.weights))
        assert torch.equal(whole.packed, parts.packed) and torch.equal(whole.scale, parts.scale)
        values = ops.unpack(whole.packed, 50)
        for row, found, scale in zip(weight, values, whole.scale, strict=True):
            if not row.any():
                assert not found.any() and scale == 1
            elif bits == "1-1.58":
                assert torch.equal(found, torch.where(row >= 0, 1, -1).to(torch.int8))
                assert abs(scale - row.abs().mean()) < 1e-6
            else:
                kept = row.abs() > 0.7 * row.abs().mean()
                assert torch.equal(found, (row.sign() * kept).to(torch.int8))
                assert abs(scale - row.abs()[kept].mean()) < 1e-6
        error = (values.float() * whole.scale[:, None] - weight).norm() / weight.norm()
        assert abs(whole.relative_error - float(error)) < 1e-6
        assert torch.equal(whole.sum, values.sum(1, dtype=torch.int32))
