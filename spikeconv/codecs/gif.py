"""SpikeLLM's generalised integrate-and-fire code: salient channels get more bits, and so more steps.

    s_b = (max x - min x) / (2^b - 1),   z_b = round(-min x / s_b),   k = clamp(round(x / s_b) + z_b, 0, 2^b - 1)

with b = n, or n + a in the salient channels (arXiv 2407.04752; as SDLLM, table 2, compares with it). Both widths share
the token's range. A salient count is sent in T = 2^a steps of at most 2^n - 1 each, which cut it off at T (2^n - 1)
(`steps`, what the public code calls multibit_simulate), or whole (`plain`, its default). The range holds 0 here also
where all inputs of a token have one sign.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, Unfolds, potential
from spikeconv.config import GifInputs
from spikeconv.rotation import Rotation

__all__ = ["Encoded", "GifCodec", "encode_widths"]

Encoded = tuple[Tensor, Tensor, Tensor]
"""Counts, scale and zero point."""


@dataclass(frozen=True)
class GifCodec(Unfolds):
    """Encoder and unfolder.

    Attributes:
        count_max: largest count of a channel that is not salient, 2^n - 1.
        salient_levels: that of b = n + a, 2^(n+a) - 1.
        salient_max: largest count of a salient channel, which the steps may cut off below that.
    """

    count_max: int
    salient_levels: int
    salient_max: int

    @classmethod
    def of(cls, inputs: GifInputs) -> "GifCodec":
        """The codec of a scheme with `inputs.codec=gif`."""
        return cls(inputs.count_max, inputs.salient_levels, inputs.largest_count)

    @property
    def largest_count(self) -> int:
        """Bound on the counts."""
        return self.salient_max

    def encode(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        norm: Norm | None = None,
        calibrated: Tensor | None = None,
        histogram: bool = False,
    ) -> SpikeCounts:
        """Counts of x [..., n] after the norm and the rotation, by the salient channels: bool [n]."""
        assert calibrated is not None, "a linear holds its salient channels"
        u = potential(x, rotation, norm)
        (low, *of_low), (high, *of_high) = encode_widths(u, (self.count_max, self.salient_levels))
        counts = torch.where(calibrated, high.clamp_max(self.salient_max), low)
        bins = ops.histogram_of(counts, 0, self.salient_max + 1 if histogram else 0)
        scale, zero = map(torch.stack, zip(of_low, of_high, strict=True))
        return SpikeCounts(counts, scale, zero, bins, 0, channels=torch.stack((~calibrated, calibrated)))


def encode_widths(u: Tensor, largest: Sequence[int], encode: Callable[..., Any] = ops.encode) -> list[Encoded]:
    """Unsigned counts [..., n], scale and zero point [..., 1] of a potential u [..., n], for each largest count.

    `encode` is `ops.encode`, or its reference.
    """
    tables = (ops.EncodeSettings(0, top, symmetric=False).table() for top in largest)
    return [encode(u, [], None, None, table, False)[:3] for table in tables]
