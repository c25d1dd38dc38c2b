"""The products that torch offers for the same layer, as a user would call them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PEERS"]

GROUP = 32
"""Weights that share a scale in torch's 4-bit product; it knows no scale per channel alone."""


def fp32_linear(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """`F.linear` in float32."""
    return lambda: F.linear(x, weight)


def bf16_linear(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """`F.linear` in bfloat16."""
    half, half_weight = x.bfloat16(), weight.bfloat16()
    return lambda: F.linear(half, half_weight)


def int_mm(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """`torch._int_mm`, int8 × int8 to int32; no scaling."""
    counts, columns = x.to(torch.int8), weight.to(torch.int8).t()
    return lambda: torch._int_mm(counts, columns)


def int4pack_mm(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """`_weight_int4pack_mm`, 4-bit weights and bfloat16 activations, or its twin for the CPU."""
    aten, stored = torch.ops.aten, (weight + 8).to(torch.int32).contiguous()
    half = x.bfloat16()
    scales = torch.ones(weight.shape[1] // GROUP, weight.shape[0], 2, dtype=torch.bfloat16, device=x.device)
    if x.is_cuda:
        pairs = (stored[:, ::2] << 4 | stored[:, 1::2]).to(torch.uint8)
        packed = aten._convert_weight_to_int4pack(pairs, 8)
        return lambda: aten._weight_int4pack_mm(half, packed, GROUP, scales)
    packed = aten._convert_weight_to_int4pack_for_cpu(stored, 2)
    return lambda: aten._weight_int4pack_mm_for_cpu(half, packed, GROUP, scales)


def qlinear(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """`onednn.qlinear_pointwise`, u8 × s8 with scaling to float32."""
    counts = (x + 8).to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), list(x.shape))
    scales, zeros = torch.ones(weight.shape[0]), torch.zeros(weight.shape[0], dtype=torch.int64)

    def run() -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            counts, 1.0, 8, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return run


PEERS: dict[str, Callable[[Tensor, Tensor], Callable[[], Tensor]]] = {
    "fp32 linear": fp32_linear,
    "bf16 linear": bf16_linear,
    "_int_mm": int_mm,
    "int4pack_mm": int4pack_mm,
    "onednn.qlinear": qlinear,
}
"""By name: (whole counts as float32 [tokens, in], whole weights as float32 [out, in]) → a call to time."""
