"""SDLLM's two-step code: an integer spike count per input, then |k| spikes over T' virtual steps.

k = clamp(round(u / s) + z, k_min, k_max)        step one (eq. 9, 16)
spike_t = sign(k) · [t < |k|],  Σ_t spike_t = k   step two (eq. 10, 17)
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs.base import Norm, SpikeCounts, unfold
from spikeconv.config import LinearScheme
from spikeconv.rotation import Rotation

__all__ = ["CountCodec"]


@dataclass(frozen=True)
class CountCodec:
    """Encoder and unfolder for one count width; the fields are those of `LinearScheme`."""

    count_min: int
    count_max: int
    symmetric: bool
    clip_ratio: float
    virtual_steps: int
    clip_mode: str = "none"
    clip_threshold: float = 0.0

    @classmethod
    def of(cls, scheme: LinearScheme) -> "CountCodec":
        """The codec of a scheme whose activations are not float."""
        return cls(*(getattr(scheme, field.name) for field in fields(cls)))

    @property
    def largest_count(self) -> int:
        """Bound on |count|."""
        return max(-self.count_min, self.count_max)

    def encode(
        self, x: Tensor, rotation: Rotation | None = None, norm: Norm | None = None, with_statistics: bool = False
    ) -> SpikeCounts:
        """Counts of x [..., n] after the norm and the rotation, one scale per token."""
        counts, scale, zero, statistics = ops.encode(x, *self.arguments(x.device, rotation, norm), with_statistics)
        return SpikeCounts(counts, scale, None if self.symmetric else zero, statistics)

    def arguments(self, device: torch.device, rotation: Rotation | None, norm: Norm | None) -> tuple[Any, ...]:
        """What `ops.encode` takes between its input and `with_statistics`."""
        signs, bases, power = rotation.on(device) if rotation else (None, [], 1)
        weight, epsilon = norm or (None, 0.0)
        limits = (self.count_min, self.count_max, self.symmetric, self.clip_ratio)
        return signs, bases, power, weight, epsilon, *limits, self.clip_mode, self.clip_threshold

    def unfold(self, counts: Tensor) -> Tensor:
        """The spike train [T, ..., n] int8 with entries in {-1, 0, 1}; it sums to the counts over T = largest count.

        T is T' where step two is part of the scheme; counts that are sent whole (4-4) unfold for proof only.
        """
        return unfold(counts, self.largest_count)
