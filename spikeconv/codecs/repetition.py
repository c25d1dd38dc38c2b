"""Repetition coding, the baseline of SpikeRWKV (SNN-RWKV-T): an integrate-and-fire neuron driven by a constant input.

With soft reset (eq. 1 and 2) the neuron fires n = min(⌊|x| T / θ⌋, T) times in T steps, so x̂ = ±n θ / T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, Unfolds, potential
from spikeconv.config import RepetitionInputs
from spikeconv.rotation import Rotation

__all__ = ["RepetitionCodec"]


@dataclass(frozen=True)
class RepetitionCodec(Unfolds):
    """Encoder and unfolder; the fields are those of `RepetitionInputs`.

    The threshold θ of a token is the `threshold_quantile` of its |x| (1: the largest).
    """

    time_steps: int
    threshold_quantile: float

    @classmethod
    def of(cls, inputs: RepetitionInputs) -> "RepetitionCodec":
        """The codec of a scheme with `inputs.codec=repetition`."""
        return cls(inputs.time_steps, inputs.threshold_quantile)

    @property
    def largest_count(self) -> int:
        """Bound on |count|: T."""
        return self.time_steps

    def encode(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        norm: Norm | None = None,
        calibrated: Tensor | None = None,
        histogram: bool = False,
    ) -> SpikeCounts:
        """Signed spike counts of x [..., n] after the norm and the rotation, one θ per token.

        Nothing of it is calibrated.
        """
        u = potential(x, rotation, norm)
        magnitude = u.abs()
        if self.threshold_quantile == 1:
            theta = magnitude.amax(-1, keepdim=True)
        else:
            theta = magnitude.quantile(self.threshold_quantile, -1, keepdim=True)
        theta = torch.where(theta == 0, 1.0, theta)
        fired = (magnitude * self.time_steps / theta).floor().clamp_max(self.time_steps)
        counts = (u.sign() * fired).nan_to_num(0).to(torch.int8)
        bins = ops.histogram_of(counts, -self.time_steps, 2 * self.time_steps + 1 if histogram else 0)
        return SpikeCounts(counts, theta / self.time_steps, None, bins, -self.time_steps)
