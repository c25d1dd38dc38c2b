"""Counts spikes while a model runs.

The firing rate of a layer is mean |k| / T' over tokens and inputs (SDLLM, eq. 15 and 22).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from spikeconv.codecs import SpikeCounts
from spikeconv.nn.attention import attention_codes
from spikeconv.nn.encoder import Encoder
from spikeconv.nn.linear import spike_linears
from spikeconv.record.record import magnitude_of, ones_of
from spikeconv.record.watching import Undo, Watching, observe

__all__ = ["Recorder", "SpikeStatistics"]


@dataclass
class SpikeStatistics:
    """What one encoder saw: tokens, inputs, and a histogram of its counts, from which all else follows.

    With several planes every plane counts: an input has as many counts, as it has with T time steps.

    Attributes:
        tokens: of all encodings.
        inputs: of all tokens.
        planes: counts of an input.
        lowest: count of the histogram's first bin.
        histogram: int64, how many counts are `lowest`, `lowest + 1`, …; empty before the first encoding.
    """

    tokens: int = 0
    inputs: int = 0
    planes: int = 1
    lowest: int = 0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def add(self, encoded: SpikeCounts) -> None:
        """Count one encoding; nothing is copied to the host."""
        counts = encoded.counts
        self.planes = len(counts) if encoded.stacked else encoded.steps
        self.note(counts.numel() // self.planes, counts.shape[-1], encoded.histogram, encoded.lowest)

    def note(self, inputs: int, size: int, histogram: Tensor, lowest: int) -> None:
        """Count so many inputs, `size` of them a token, and their counts, from `lowest` on."""
        self.tokens += inputs // size
        self.inputs += inputs
        low, high = lowest, lowest + len(histogram)
        if len(self.histogram):  # of another range, if the number of steps was changed meanwhile
            low, high = min(low, self.lowest), max(high, self.lowest + len(self.histogram))
        seen = _bins(self.histogram.to(histogram.device), self.lowest, low, high)
        self.lowest, self.histogram = low, seen + _bins(histogram, lowest, low, high)

    @property
    def counts(self) -> dict[int, int]:
        """How often each count that there can be was seen."""
        return dict(enumerate(self.histogram.tolist(), self.lowest))

    @property
    def spikes(self) -> int:
        """Σ|k|: spikes of the unary code."""
        return magnitude_of(self.counts)

    @property
    def zeros(self) -> int:
        """Counts that are zero."""
        return self.counts.get(0, 0)

    @property
    def ones(self) -> int:
        """Ones of all |k| written in binary: spikes of the binary code."""
        return ones_of(self.counts)


def _bins(histogram: Tensor, lowest: int, low: int, high: int) -> Tensor:
    """The histogram over counts from `low` up to, not including, `high`."""
    if not len(histogram):
        return histogram.new_zeros(high - low)
    if (low, high) == (lowest, lowest + len(histogram)):
        return histogram
    return torch.nn.functional.pad(histogram, (lowest - low, high - lowest - len(histogram)))


class Recorder(Watching):
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

    def watch(self) -> Iterable[Undo]:
        """Tell the totals of every encoding."""
        for code in self._codes:
            for kind, totals in self.cache.items():
                code.observers[kind].append(totals.note)
                yield partial(code.observers[kind].remove, totals.note)
        for encoder, totals in self._encoders.values():
            yield observe(encoder, totals.add)
