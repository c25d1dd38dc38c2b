"""What all recorders have in common: they watch a model while a context is open; and the counts that one keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from spikeconv.codecs import SpikeCounts
from spikeconv.codes import Code
from spikeconv.nn import Encoder, SpikeLinear, spike_linears

__all__ = ["Kept", "KeptCounts", "Watching", "first_linears"]

Undo = Callable[[], object]


class Watching(ABC):
    """A context in which something is told of what a model computes."""

    _undo: tuple[Undo, ...] = ()

    @abstractmethod
    def watch(self) -> Iterable[Undo]:
        """Begin; gives what ends it again."""

    def __enter__(self) -> Self:
        self._undo = tuple(self.watch())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in self._undo:
            undo()
        self._undo = ()


def observe(encoder: Encoder, observer: Callable[[SpikeCounts], None]) -> Undo:
    """Tell an observer of an encoder's encodings; gives what ends that."""
    encoder.observers.append(observer)
    return lambda: encoder.observers.remove(observer)


def first_linears(model: nn.Module) -> dict[str, SpikeLinear]:
    """Of every encoder of a model that makes counts the first linear, by name, in order."""
    found: dict[int, tuple[str, SpikeLinear]] = {}
    for name, linear in spike_linears(model).items():
        if linear.encoder.codec is not None:
            found.setdefault(id(linear.encoder), (name, linear))
    return dict(found.values())


class Kept(NamedTuple):
    """One encoding, and what it was made with and is sent by."""

    spikes: SpikeCounts
    codec: Any
    code: Code

    def train(self) -> Tensor:
        """The spike train int8 [slots, ..., in] of -1, 0 and 1."""
        train: Tensor = self.codec.unfold(self.spikes.counts, self.code)
        return train


class KeptCounts(Watching):
    """Keeps the counts of some linears' inputs, forward by forward.

    Args:
        model: a converted model.
        names: of linears.
        tokens: keep no more than so many rows of each; None: all. Then the rows are one axis, and of several planes
            the first is kept, the most significant digits.

    `kept` has them by name.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], tokens: int | None = None) -> None:
        linears = spike_linears(model)
        self._encoders = {name: linears[name].encoder for name in names}
        self._tokens = tokens
        self.kept: dict[str, list[Kept]] = {name: [] for name in self._encoders}

    def watch(self) -> Iterable[Undo]:
        """Tell `kept` of every encoding."""
        for name, encoder in self._encoders.items():
            yield observe(encoder, partial(self._keep, name, encoder))

    def trains(self) -> dict[str, Tensor]:
        """The spike trains of all that was kept, int8 [slots, rows, in] by name."""
        return {name: torch.cat([each.train() for each in kept], 1) for name, kept in self.kept.items() if kept}

    def _keep(self, name: str, encoder: Encoder, encoded: SpikeCounts) -> None:
        counts, kept = encoded.counts, self.kept[name]
        if self._tokens is not None:
            left = self._tokens - sum(len(each.spikes.counts) for each in kept)
            if left <= 0:
                return
            first = counts[0] if encoded.stacked else counts
            counts = first.reshape(-1, first.shape[-1])[:left]
        kept.append(Kept(encoded._replace(counts=counts.clone()), encoder.codec, encoder.code))
