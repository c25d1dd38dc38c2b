"""GPTAQ: each rounded input also makes up for what its own count is off (Li et al. 2025, arXiv 2504.02692).

    P = α ((Cᵀ Uᵀ) ⊙ M) U,   M = 1 strictly above the diagonal

Cᵀ = Σ (u - û) ûᵀ is the paper's ΔX Xᵀ, U its Lᵀ. α = 1 is the paper's equation, 1/4 what the authors' code sets.
Their code lets a block pass P w on with the rounded w to later blocks; the paper, and this, with the w before it.
"""

from torch import Tensor

__all__ = ["ALPHA", "asymmetry"]

ALPHA = 0.25


def asymmetry(cross: Tensor, upper: Tensor, alpha: float = ALPHA) -> Tensor:
    """P [in, in] float64 of C and U [in, in], all in one order of the inputs."""
    return alpha * ((cross.mT @ upper.mT).triu(1) @ upper)
