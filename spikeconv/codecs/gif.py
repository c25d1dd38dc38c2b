"""SpikeLLM's generalised integrate-and-fire code: salient channels get more bits, and so more steps.

    s_b = (max x - min x) / (2^b - 1),   z_b = round(-min x / s_b),   k = clamp(round(x / s_b) + z_b, 0, 2^b - 1)

with b = n, or n + a in the salient channels (arXiv 2407.04752; as SDLLM, table 2, compares with it). Both widths share
the token's range. A salient count is sent in T = 2^a steps of at most 2^n - 1 each, which cut it off at T (2^n - 1)
(`steps`, what the public code calls multibit_simulate), or whole (`plain`, its default). The range holds 0 here also
where all inputs of a token have one sign.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, potential
from spikeconv.codes import UNARY, Code
from spikeconv.config import GifInputs
from spikeconv.rotation import Rotation

__all__ = ["GifCodec"]


@dataclass(frozen=True)
class GifCodec:
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
        low, low_scale, low_zero, _ = ops.encode(u, [], None, None, _table(self.count_max), False)
        high, high_scale, high_zero, _ = ops.encode(u, [], None, None, _table(self.salient_levels), False)
        counts = torch.where(calibrated, high.clamp_max(self.salient_max), low)
        bins = ops.histogram_of(counts, 0, self.salient_max + 1 if histogram else 0)
        scale, zero = torch.stack((low_scale, high_scale)), torch.stack((low_zero, high_zero))
        return SpikeCounts(counts, scale, zero, bins, 0, channels=torch.stack((~calibrated, calibrated)))

    def unfold(self, counts: Tensor, code: Code = UNARY) -> Tensor:
        """The spike train int8 [slots, ..., n] of a temporal code: the integers of the T steps spike by spike."""
        return code.unfold(counts, self.largest_count)


def _table(largest: int) -> list[float]:
    return ops.EncodeSettings(0, largest, symmetric=False).table()
