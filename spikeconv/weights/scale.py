"""The scale of each output channel, chosen for what the inputs do with its error.

Before rounding, on a grid of shares p of the largest weight as in `rtn`:

    s = p · max|w| / (2^(b-1) - 1),   the p with the least Σ_i (H_ii + ε) (s q_i - w_i)²

After it, by least squares: s = (qᵀ H w) / (qᵀ H q).
"""

import torch
from torch import Tensor

__all__ = ["refit_scale", "search_scale"]

STEP = 0.02
SHRINKS = 40
FLOOR = 1e-3
"""ε, as a share of the mean H_ii: inputs that were silent on the text are not free."""
CHUNK = 1 << 18
"""Weights searched at a time, so that the passes of the search stay in cache."""


def search_scale(weight: Tensor, importance: Tensor, bits: int, search: bool = True) -> Tensor:
    """The scale of each row of a weight [out, in], float32 [out]; 1 for an all-zero row.

    Args:
        weight: any float dtype.
        importance: H_ii [in].
        bits: 2 to 8.
        search: search p; else p = 1.
    """
    weight, top = weight.float(), 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1) / top
    if search:
        mean = importance.mean()
        weighted = (importance + FLOOR * mean).float() if mean > 0 else torch.ones_like(weight[0])
        rows = max(1, CHUNK // weight.shape[1])
        parts = zip(weight.split(rows), scale.split(rows), strict=True)
        scale = torch.cat([_best(w, s, weighted / weighted.max(), top) for w, s in parts])
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _best(weight: Tensor, full: Tensor, importance: Tensor, top: int) -> Tensor:
    best, least = full, torch.full_like(full, torch.inf)
    unit = weight / torch.where(full > 0, full, torch.ones_like(full))[:, None]
    for i in range(SHRINKS):
        p = 1 - STEP * i
        error = (unit / p).round_().clamp_(-top - 1, top).mul_(p).sub_(unit).square_() @ importance
        best = torch.where(error < least, full * p, best)
        least = torch.minimum(error, least)
    return best


def refit_scale(values: Tensor, scale: Tensor, hessian: Tensor, moment: Tensor) -> Tensor:
    """The least-squares scale of integers, float32 [out]; where there is none above 0, the one that there was.

    Args:
        values: integers [in, out] float64.
        scale: [out] float32.
        hessian: H [in, in] float64.
        moment: Σ û yᵀ [in, out] float64 with the wanted outputs y: H wᵀ where they are W û.
    """
    power = (values * (hessian @ values)).sum(0)
    fitted = ((values * moment).sum(0) / power).float()
    return torch.where((power > 0) & (fitted > 0) & fitted.isfinite(), fitted, scale)
