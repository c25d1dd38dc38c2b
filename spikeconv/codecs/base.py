"""What every codec gives: whole numbers, and the scales that turn them back into membrane potentials."""

from typing import NamedTuple

from torch import Tensor

from spikeconv import ops
from spikeconv.rotation import Rotation

__all__ = ["Norm", "SpikeCounts", "potential"]


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
        histogram: int64 [largest - lowest + 1], how many counts are `lowest`, `lowest + 1`, …; [0] unless asked for.
        lowest: smallest count that there can be.
        stacked: whether the first axis holds planes whose potentials add up.
    """

    counts: Tensor
    scale: Tensor
    zero_point: Tensor | None
    histogram: Tensor
    lowest: int
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
