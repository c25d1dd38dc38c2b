"""GPTQ's sweep: one input after the other is rounded, and those still to come make up for the error.

With (H + λ I)⁻¹ = Uᵀ U (Frantar et al. 2023, arXiv 2210.17323, algorithm 1) and w the column at hand:

    q_j = clamp(round(w_j / s)),   w_k ← w_k - U_jk (w_j - s q_j) / U_jj + P_jk w_j   for all k > j

P is GPTAQ's (see `gptaq`), 0 without it. What a block of columns does to the rest is one product.
"""

import torch
from torch import Tensor

__all__ = ["BLOCK", "sweep"]

BLOCK = 128


def sweep(
    target: Tensor,
    upper: Tensor,
    scale: Tensor,
    bits: int,
    *,
    first: Tensor | None = None,
    asymmetry: Tensor | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Integers [in, out] float64 of a target, in the order of its inputs.

    Args:
        target: [in, out] float64.
        upper: U [in, in] float64, of inputs in the same order.
        scale: s [out] float64.
        bits: 2 to 8.
        first: what the first input is rounded from instead, [out] (Qronos).
        asymmetry: P [in, in], strictly upper triangular (GPTAQ).
        block: inputs worked off at a time; it does not change the result but for rounding.
    """
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    rest, values = target.clone(), torch.empty_like(target)
    for begin in range(0, len(target), block):
        end = min(begin + block, len(target))
        part, errors = rest[begin:end], torch.empty_like(target[begin:end])
        for j in range(end - begin):
            row = begin + j
            from_ = first if row == 0 and first is not None else part[j]
            values[row] = (from_ / scale).round_().clamp_(low, high)
            errors[j] = (part[j] - values[row] * scale) / upper[row, row]
            part[j + 1 :].addr_(upper[row, row + 1 : end], errors[j], alpha=-1)
            if asymmetry is not None:
                part[j + 1 :].addr_(asymmetry[row, row + 1 : end], part[j])
        rest[end:].addmm_(upper[begin:end, end:].mT, errors, alpha=-1)
        if asymmetry is not None:
            rest[end:].addmm_(asymmetry[begin:end, end:].mT, part)
    return values
