"""SDLLM's two-step code: an integer spike count per input, then its spikes slot by slot of a temporal code.

k = clamp(round(u / s) + z, k_min, k_max)         step one (eq. 9, 16)
spike_t = sign(k) · [t < |k|],  Σ_t spike_t = k   step two (eq. 10, 17): the unary code, over T' virtual steps
"""

from dataclasses import dataclass

from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, Unfolds
from spikeconv.config import CountInputs
from spikeconv.rotation import Rotation

__all__ = ["CountCodec"]


@dataclass(frozen=True)
class CountCodec(Unfolds):
    """Encoder and unfolder for one count width; the fields are those of `CountInputs`."""

    count_min: int
    count_max: int
    symmetric: bool
    clip_ratio: float
    virtual_steps: int
    clip_mode: str = "none"
    step: float = 0.0
    dead_zone: float = 0.0
    one_spike: int = 0
    by_mean: bool = False

    @classmethod
    def of(cls, inputs: CountInputs) -> "CountCodec":
        """The codec of a scheme with `inputs.codec=count`."""
        mode = "none" if inputs.clip is None else inputs.clip.mode
        limits = inputs.count_min, inputs.count_max, inputs.symmetric
        zone = inputs.step or 0.0, inputs.dead_zone, inputs.one_spike or 0
        return cls(*limits, inputs.clip_ratio, inputs.virtual_steps, mode, *zone, inputs.scale == "mean")

    @property
    def largest_count(self) -> int:
        """Bound on |count|."""
        return max(-self.count_min, self.count_max)

    def encode(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        norm: Norm | None = None,
        calibrated: Tensor | None = None,
        histogram: bool = False,
    ) -> SpikeCounts:
        """Counts of x [..., n] after the norm, the rotation and the clip at τ (`calibrated`, one float32).

        There is one scale per token.
        """
        factors = [] if rotation is None else rotation.on(x.device)
        gamma = None if norm is None else norm.weight
        encoded = ops.encode(x, factors, gamma, calibrated, self.settings(norm).table(), histogram)
        counts, scale, zero, bins = encoded
        return SpikeCounts(counts, scale, None if self.symmetric else zero, bins, self.count_min)

    def settings(self, norm: Norm | None) -> ops.EncodeSettings:
        """Those of `ops.encode` behind a norm."""
        epsilon = 0.0 if norm is None else norm.epsilon
        limits = self.count_min, self.count_max, self.symmetric
        zone = self.step, self.dead_zone, self.one_spike
        return ops.EncodeSettings(*limits, self.clip_ratio, self.clip_mode, epsilon, *zone, by_mean=self.by_mean)
