"""What a linear's inputs look like: second moments of its decoded counts, and the factor of their inverse.

    H = Σ w² û ûᵀ     C = Σ w² û (u - û)ᵀ     R = Σ w² û rᵀ      over tokens with weights w

û [in] is what the converted network's counts stand for, u what the float network has in its place, both rotated; r
[out] is what the output should have beside W u: what the residual stream already lacks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["Factor", "Statistics", "factorize"]

RAISE = 3.0
"""By how much a damping is raised with which H cannot be factored."""
LEAST = 1e-6
"""The damping tried after 0."""
MOST = 1e6
"""Beyond it, H is no matrix of numbers."""


@dataclass(frozen=True)
class Statistics:
    """Sums over the calibration tokens, of any float dtype.

    Attributes:
        hessian: H [in, in].
        cross: C [in, in], or None: the float network's inputs were not looked at.
        residual: R [in, out], or None.
        weight: Σ w².
        counts: Σ w² û [in], or None.
        errors: Σ w² (u - û) [in], or None.
        residuals: Σ w² r [out], or None.
    """

    hessian: Tensor
    cross: Tensor | None = None
    residual: Tensor | None = None
    weight: float = 0.0
    counts: Tensor | None = None
    errors: Tensor | None = None
    residuals: Tensor | None = None

    def double(self) -> "Statistics":
        """The same in float64."""
        return self._each(Tensor.double)

    def to(self, device: torch.device) -> "Statistics":
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Statistics":
        changed: dict[str, Any] = {n: change(value) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **changed)

    def centered(self) -> "Statistics":
        """The same about the means: what is left where a bias takes care of them."""
        if self.counts is None or not self.weight:
            return self
        mean = self.counts / self.weight
        pairs = ((self.cross, self.errors), (self.residual, self.residuals))
        cross, residual = (
            total if total is None or sums is None else total - torch.outer(mean, sums) for total, sums in pairs
        )
        return replace(self, hessian=self.hessian - torch.outer(mean, self.counts), cross=cross, residual=residual)


@dataclass(frozen=True)
class Factor:
    """U [in, in] float64, upper triangular, (H + λ I)⁻¹ = Uᵀ U, with λ = damping · mean H_ii."""

    upper: Tensor
    damping: float

    def solve(self, right: Tensor) -> Tensor:
        """(H + λ I)⁻¹ right, [in, …] float64."""
        return self.upper.mT @ (self.upper @ right)


def factorize(hessian: Tensor, damping: float) -> Factor:
    """Factor the inverse of a damped Hessian [in, in] float64; the damping is raised threefold until that succeeds.

    Of H + λ I = R Rᵀ with R upper triangular, a Cholesky factor with the order of the inputs turned round, U is the
    inverse.

    Raises:
        SpikeconvError: H is not finite.
    """
    mean = float(hessian.diagonal().mean())
    unit = mean if mean > 0 else 1.0
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    while damping <= MOST and torch.isfinite(hessian).all():
        turned, info = torch.linalg.cholesky_ex((hessian + damping * unit * identity).flip(0, 1))
        if int(info) == 0:
            upper = torch.linalg.solve_triangular(turned.flip(0, 1), identity, upper=True)
            if torch.isfinite(upper).all():
                return Factor(upper, damping)
        damping = max(RAISE * damping, LEAST)
    raise SpikeconvError("The inputs of a linear on the calibration text are not finite; the model is damaged.")
