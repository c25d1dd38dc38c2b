"""What every codec gives: whole numbers, and the scales that turn them back into membrane potentials."""

from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.rotation import Rotation

__all__ = ["Norm", "SpikeCounts", "potential", "statistics_of", "unfold"]


class Norm(NamedTuple):
    """An RMSNorm in front of the encoder: γ [n] and ε."""

    weight: Tensor
    epsilon: float


class SpikeCounts(NamedTuple):
    """Encoded inputs.

    Attributes:
        counts: [..., n] int8 or int16; [planes, ..., n] if stacked.
        scale: [..., 1] float32, or [planes, ..., 1].
        zero_point: [..., 1] int32, or None for signed counts.
        statistics: int64 [3], Σ|k|, the number of zero counts and the number of ones in the |k| written in binary (the
            last may be missing); empty unless asked for.
        stacked: whether the first axis holds planes whose potentials add up.
    """

    counts: Tensor
    scale: Tensor
    zero_point: Tensor | None
    statistics: Tensor
    stacked: bool = False

    def decode(self) -> Tensor:
        """The membrane potential that the counts stand for, [..., n] float32."""
        offset = self.counts if self.zero_point is None else self.counts - self.zero_point
        return self.total(offset * self.scale)

    def total(self, values: Tensor) -> Tensor:
        """Adds the planes of values [planes, ..., m] up, in their order; other values stay as they are."""
        if not self.stacked:
            return values
        result, *others = values.unbind()
        for plane in others:
            result = result + plane
        return result


def potential(x: Tensor, rotation: Rotation | None, norm: Norm | None) -> Tensor:
    """x [..., n] after the norm and the rotation, float32."""
    u: Tensor = x.float() if norm is None else ops.rms_norm(x, norm.weight, norm.epsilon)
    return u if rotation is None else rotation(u)


def unfold(counts: Tensor, steps: int) -> Tensor:
    """The spike train [steps, *counts.shape] int8 with entries in {-1, 0, 1}; it sums to counts up to `steps`."""
    return torch.stack([ops.unfold_step(counts, t) for t in range(steps)]).to(torch.int8)


def statistics_of(counts: Tensor, wanted: bool) -> Tensor:
    """`SpikeCounts.statistics` of counts below 128; empty unless wanted."""
    if not wanted:
        return counts.new_zeros(0, dtype=torch.int64)
    magnitudes = counts.abs()
    ones = sum(((magnitudes >> bit) & 1).sum() for bit in range(7))
    return torch.stack((magnitudes.sum(), (counts == 0).sum(), torch.as_tensor(ones)))
