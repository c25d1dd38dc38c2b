"""Counts spikes while a model runs.

The firing rate of a layer is mean |k| / T' over tokens and inputs (SDLLM, eq. 15 and 22).
"""

from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from spikeconv.codecs import SpikeCounts
from spikeconv.nn.attention import attention_codes
from spikeconv.nn.encoder import Encoder
from spikeconv.nn.linear import spike_linears

__all__ = ["Recorder", "SpikeStatistics"]


@dataclass
class SpikeStatistics:
    """Totals of one encoder: tokens and inputs seen and, as 0-d int64, Σ|k| (spikes), zero counts and Σ ones in |k|.

    With several planes every plane counts: an input has as many counts.
    """

    tokens: int = 0
    inputs: int = 0
    spikes: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    zeros: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    ones: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    planes: int = 1

    def add(self, encoded: SpikeCounts) -> None:
        """Count one encoding; nothing is copied to the host."""
        counts = encoded.counts
        self.planes = len(counts) if encoded.stacked else 1
        self.note(counts.numel() // self.planes, counts.shape[-1], encoded.statistics)

    def note(self, inputs: int, size: int, statistics: Tensor) -> None:
        """Count so many inputs, `size` of them a token."""
        self.tokens += inputs // size
        self.inputs += inputs
        spikes, zeros, *ones = statistics
        self.spikes = self.spikes.to(spikes.device) + spikes
        self.zeros = self.zeros.to(zeros.device) + zeros
        if ones:
            self.ones = self.ones.to(ones[0].device) + ones[0]


class Recorder:
    """Records the spikes of every encoder of a model while the context is open; any number may be open at once.

    `statistics` maps the name of each converted linear to its encoder's totals; linears of a group share one object.
    `cache` maps `k` and `v` to the totals of all keys and values, where those are counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.statistics: dict[str, SpikeStatistics] = {}
        self._encoders: dict[int, tuple[Encoder, SpikeStatistics]] = {}
        for name, linear in spike_linears(model).items():
            encoder = linear.encoder
            _, totals = self._encoders.setdefault(id(encoder), (encoder, SpikeStatistics()))
            self.statistics[name] = totals
        self._codes = list(attention_codes(model).values())
        self.cache = {kind: SpikeStatistics() for kind in "kv"} if self._codes else {}

    def __enter__(self) -> "Recorder":
        for code in self._codes:
            for kind, totals in self.cache.items():
                code.observers[kind].append(totals.note)
        for encoder, totals in self._encoders.values():
            encoder.observers.append(totals.add)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for code in self._codes:
            for name, totals in self.cache.items():
                code.observers[name].remove(totals.note)
        for encoder, totals in self._encoders.values():
            encoder.observers.remove(totals.add)
