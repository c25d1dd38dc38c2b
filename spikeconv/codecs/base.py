"""What every codec gives: whole numbers, and the scales that turn them back into membrane potentials."""

from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codes import UNARY, Code
from spikeconv.rotation import Rotation

__all__ = ["Norm", "SpikeCounts", "Unfolds", "potential"]


class Unfolds:
    """Codecs whose counts a temporal code sends as they are."""

    @property
    def largest_count(self) -> int:
        """Bound on |count|."""
        raise NotImplementedError

    def unfold(self, counts: Tensor, code: Code = UNARY) -> Tensor:
        """The spike train int8 [slots, ..., n] ([slots, planes, ..., n]) of a temporal code.

        Unary slots are as many as the largest count; counts that are sent whole unfold for proof only.
        """
        return code.unfold(counts, self.largest_count)


class Norm(NamedTuple):
    """An RMSNorm in front of the encoder: γ [n] and ε."""

    weight: Tensor
    epsilon: float


class SpikeCounts(NamedTuple):
    """Encoded inputs.

    Attributes:
        counts: [..., n] int8 or int16; [planes, ..., n] if stacked.
        scale: [..., 1] float32, or [planes, ..., 1].
        zero_point: [..., 1] int32, or [planes, ..., 1]; None for signed counts.
        histogram: int64 [largest - lowest + 1], how many counts are `lowest`, `lowest + 1`, …; [0] unless asked for.
        lowest: smallest count that there can be.
        stacked: whether the first axis holds planes whose potentials add up.
        steps: time steps, streams of the network that the rows of the counts hold one after the other.
        channels: bool [planes, n], which of the counts [..., n] have the scale and zero point of a plane; None where
            all have the same.
    """

    counts: Tensor
    scale: Tensor
    zero_point: Tensor | None
    histogram: Tensor
    lowest: int
    stacked: bool = False
    channels: Tensor | None = None
    steps: int = 1

    @property
    def has_planes(self) -> bool:
        """Whether an output is a sum of several accumulators with a scale each."""
        return self.stacked or self.channels is not None

    def planes(self) -> Tensor:
        """The counts that are accumulated apart from each other: [planes, ..., n], or [..., n] if it is one plane."""
        if self.channels is None:
            return self.counts
        return torch.stack([self.counts * channels for channels in self.channels])

    def decode(self) -> Tensor:
        """The membrane potential that the counts stand for, [..., n] float32."""
        offset = self.counts if self.zero_point is None else self.counts - self.zero_point
        values = offset * self.scale
        if self.channels is None:
            return self.total(values)
        chosen = self.channels.reshape(len(self.channels), *[1] * (values.dim() - 2), -1)
        return torch.where(chosen, values, 0).sum(0)

    def total(self, values: Tensor) -> Tensor:
        """Adds the planes of values [planes, ..., m] up, in their order; other values stay as they are."""
        if not self.has_planes:
            return values
        result, *others = values.unbind()
        for plane in others:
            result = result + plane
        return result


def potential(x: Tensor, rotation: Rotation | None, norm: Norm | None) -> Tensor:
    """x [..., n] after the norm and the rotation, float32."""
    u: Tensor = x.float() if norm is None else ops.rms_norm(x, norm.weight, norm.epsilon)
    return u if rotation is None else rotation(u)
