"""SpikeRWKV's multi-head spike encoding: one layer of spikes for every decimal digit of the input, and a sign flag.

    q = min(⌊|x| · 10^(l - n)⌋, 10^l - 1) = Σ_i d_i 10^(l-1-i)      l layers, n of them integer digits
    x̂ = (-1)^[x < 0] Σ_i W_i d_i,   W_i = 10^(n-1-i)                 (section 3.4, eq. 3 and 4)

Over T time steps what one step leaves of the input is added to the next, and the steps are averaged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, Unfolds, potential
from spikeconv.config import MultiheadInputs
from spikeconv.rotation import Rotation

__all__ = ["MultiheadCodec"]

LARGEST_DIGIT = 9


@dataclass(frozen=True)
class MultiheadCodec(Unfolds):
    """Encoder and unfolder; the fields are those of `MultiheadInputs`."""

    layers: int
    integer_digits: int
    time_steps: int
    rounding: str

    @classmethod
    def of(cls, inputs: MultiheadInputs) -> "MultiheadCodec":
        """The codec of a scheme with `inputs.codec=multihead`."""
        return cls(inputs.layers, inputs.integer_digits, inputs.time_steps, inputs.rounding)

    @property
    def largest_count(self) -> int:
        """Bound on |count|: a decimal digit."""
        return LARGEST_DIGIT

    def encode(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        norm: Norm | None = None,
        calibrated: Tensor | None = None,
        histogram: bool = False,
    ) -> SpikeCounts:
        """Signed digits of x [..., n] after the norm and the rotation: T · l planes, the most significant first.

        Nothing of it is calibrated.
        """
        # In float64 a float32 times a power of ten is exact, and so is every digit.
        u = potential(x, rotation, norm).double()
        finite = u.isfinite().all(-1, keepdim=True)
        planes: list[Tensor] = []
        residual = torch.zeros_like(u)
        for _ in range(self.time_steps):
            wanted = torch.where(finite, u + residual, 0)
            quotient = self._quotient(wanted.abs())
            digits = [quotient // 10 ** (self.layers - 1 - i) % 10 for i in range(self.layers)]
            planes += [(wanted.sign() * digit).to(torch.int8) for digit in digits]
            residual = wanted - wanted.sign() * quotient / 10 ** (self.layers - self.integer_digits)
        counts = torch.stack(planes)
        weights = torch.tensor(self.plane_weights(), dtype=torch.float32, device=x.device)
        scale = weights.view(-1, *[1] * u.dim()) * torch.where(finite, 1.0, torch.nan).float()
        bins = ops.histogram_of(counts, -LARGEST_DIGIT, 2 * LARGEST_DIGIT + 1 if histogram else 0)
        return SpikeCounts(counts, scale, None, bins, -LARGEST_DIGIT, stacked=True)

    def plane_weights(self) -> list[float]:
        """What a spike of each plane is worth: W_i / T."""
        layer = [10.0 ** (self.integer_digits - 1 - i) / self.time_steps for i in range(self.layers)]
        return layer * self.time_steps

    def _quotient(self, magnitude: Tensor) -> Tensor:
        shifted = magnitude * 10 ** (self.layers - self.integer_digits)
        whole: Tensor = shifted.floor() if self.rounding == "truncate" else shifted.round()
        return whole.clamp_max(10**self.layers - 1)
