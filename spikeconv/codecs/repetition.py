"""Repetition coding, the baseline of SpikeRWKV (SNN-RWKV-T): an integrate-and-fire neuron driven by a constant input.

With soft reset (eq. 1 and 2) the neuron fires n = min(⌊|x| T / θ⌋, T) times in T steps, so x̂ = ±n θ / T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv.codecs.base import Norm, SpikeCounts, potential, statistics_of, unfold
from spikeconv.config import LinearScheme
from spikeconv.rotation import Rotation

__all__ = ["RepetitionCodec"]


@dataclass(frozen=True)
class RepetitionCodec:
    """Encoder and unfolder; the fields are those of `LinearScheme`.

    The threshold θ of a token is the `threshold_quantile` of its |x| (1: the largest).
    """

    time_steps: int
    threshold_quantile: float

    @classmethod
    def of(cls, scheme: LinearScheme) -> "RepetitionCodec":
        """The codec of a scheme with `codec="repetition"`."""
        return cls(scheme.time_steps, scheme.threshold_quantile)

    @property
    def largest_count(self) -> int:
        """Bound on |count|: T."""
        return self.time_steps

    def encode(
        self, x: Tensor, rotation: Rotation | None = None, norm: Norm | None = None, with_statistics: bool = False
    ) -> SpikeCounts:
        """Signed spike counts of x [..., n] after the norm and the rotation, one threshold per token."""
        u = potential(x, rotation, norm)
        magnitude = u.abs()
        if self.threshold_quantile == 1:
            threshold = magnitude.amax(-1, keepdim=True)
        else:
            threshold = magnitude.quantile(self.threshold_quantile, -1, keepdim=True)
        threshold = torch.where(threshold == 0, 1.0, threshold)
        fired = (magnitude * self.time_steps / threshold).floor().clamp_max(self.time_steps)
        counts = (u.sign() * fired).nan_to_num(0).to(torch.int8)
        return SpikeCounts(counts, threshold / self.time_steps, None, statistics_of(counts, with_statistics))

    def unfold(self, counts: Tensor) -> Tensor:
        """The spike train [T, ..., n] int8 with entries in {-1, 0, 1}; it sums to the counts."""
        return unfold(counts, self.time_steps)
