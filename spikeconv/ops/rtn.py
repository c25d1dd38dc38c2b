"""Round-to-nearest weights in plain torch: symmetric, one scale per output channel.

    q = clamp(round(w / s), -2^(b-1), 2^(b-1) - 1),   s = p · max|w| / (2^(b-1) - 1)

p is 1 (min-max), or searched per channel as in QuaRot: the p on the grid 1 - i/100, i < 80, with the least Σ|err|^2.4.
"""

import torch
from torch import Tensor

from spikeconv.ops.packing import pack

__all__ = ["quantize_rtn"]

GRID = 100
SHRINKS = 80
NORM = 2.4
WITNESSES = 64
"""How many of a row's largest weights bound its clipping error from below, to end the search early and exactly."""
CHUNK = 1 << 18
"""Weights searched at a time, so that the passes of the search stay in cache."""


def quantize_rtn(weight: Tensor, bits: int, search_clip: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantize and pack a float matrix [out, in]; an all-zero row gets scale 1 and zero weights.

    Args:
        weight: [out, in], any float dtype.
        bits: 2 to 8.
        search_clip: search p per row; else p = 1.

    Returns:
        packed uint8 [out, ceil(in/8), bits], scale float32 [out], row sums Σ_i q int32 [out] and squared error
        Σ_i (s·q - w)² float64 [out].
    """
    weight = weight.float()
    top = 2 ** (bits - 1) - 1
    peak = weight.abs().amax(1)
    if search_clip:
        rows = max(1, CHUNK // weight.shape[1])
        peak = peak * torch.cat([_best_shrink(w, top) for w in weight.split(rows)])
    scale = peak / torch.full_like(peak, top)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    values = (weight / scale[:, None]).round_().clamp_(-top - 1, top)
    error = (values * scale[:, None]).sub_(weight).double().square_().sum(1)
    return pack(values.to(torch.int8), bits), scale, values.sum(1).int(), error


def _best_shrink(weight: Tensor, top: int) -> Tensor:
    """The searched p of every row of a chunk."""
    peak = weight.abs().amax(1, keepdim=True)
    unit = weight * torch.where(peak == 0, 0, top / peak)  # the error's minimum does not depend on the scale
    largest = unit.abs().topk(min(WITNESSES, unit.shape[1]), dim=1).values
    best = torch.full_like(peak[:, 0], torch.inf)
    shrink = torch.ones_like(best)
    buffer, power = torch.empty_like(unit), torch.empty_like(unit)
    for i in range(SHRINKS):
        p = 1 - i / GRID
        # What clipping alone must cost grows as p falls: once it exceeds the best of every row, the search is over.
        if i and ((largest - p * (top + 1)).clamp_min_(0).pow_(NORM).sum(1) > best).all():
            break
        torch.mul(unit, 1 / p, out=buffer)
        square = buffer.round_().clamp_(-top - 1, top).mul_(p).sub_(unit).square_()
        torch.log(square, out=power).mul_(NORM / 2).exp_()  # |err|^2.4 at half the time of pow
        error = power.sum(1)
        shrink = torch.where(error < best, p, shrink)
        best = torch.minimum(best, error)
    return shrink
