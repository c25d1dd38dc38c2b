"""Weights of which only signs are kept, one scale per output channel, in two bits.

sign      q = 1 where w ≥ 0, else -1,              s = mean |w|                       (SpikeLM, table 4; XNOR-Net)
ternary   q = sign(w) where |w| > 0.7 mean |w|,    s = mean |w| of those              (TWN, arXiv 1605.04711)
"""

import torch
from torch import Tensor

from spikeconv.ops.packing import pack

__all__ = ["round_to_sign", "round_to_ternary"]

BITS = 2
THRESHOLD = 0.7
"""Of a ternary weight, as a share of the row's mean |w|."""

Rounded = tuple[Tensor, Tensor, Tensor, Tensor]
"""As `ops.quantize_rtn` gives: packed, scale, row sums, squared error."""


def round_to_sign(weight: Tensor) -> Rounded:
    """Keep the signs of a float matrix [out, in]; an all-zero row gets scale 1 and zero weights."""
    magnitude = weight.float().abs()
    signs = torch.where(weight >= 0, 1.0, -1.0) * (magnitude.amax(1, keepdim=True) > 0)
    return _rounded(weight.float(), signs, magnitude.double().mean(1).float())


def round_to_ternary(weight: Tensor) -> Rounded:
    """Keep the signs of the large weights of a float matrix [out, in]."""
    magnitude = weight.float().abs()
    kept = magnitude > THRESHOLD * magnitude.double().mean(1, keepdim=True).float()
    scale = torch.where(kept, magnitude, 0).double().sum(1) / kept.sum(1).clamp_min(1)
    return _rounded(weight.float(), weight.float().sign() * kept, scale.float())


def _rounded(weight: Tensor, values: Tensor, scale: Tensor) -> Rounded:
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    error = (values * scale[:, None]).sub_(weight).double().square_().sum(1)
    return pack(values.to(torch.int8), BITS), scale, values.sum(1).int(), error
