"""One recording of everything: counts, positions, potentials, and spike trains of chosen linears."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikeconv.codecs import SpikeCounts
from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.nn import Encoder, spike_linears
from spikeconv.progress import Track, silent
from spikeconv.record.file import Array
from spikeconv.record.positions import PositionRecorder
from spikeconv.record.potentials import EDGES, PotentialRecorder
from spikeconv.record.record import SpikeRecord
from spikeconv.record.run import record_run
from spikeconv.record.text import WINDOW, windows_of

if TYPE_CHECKING:
    from spikeconv.loading import LoadedModel

__all__ = ["record_task", "record_texts"]

POTENTIAL_TOKENS = 2048
"""Tokens whose potentials are looked at: each costs a second encode."""

Trains = tuple[tuple[str, ...], int]
"""Names or patterns of linears, and how many tokens of their spike trains are kept."""


def record_texts(
    loaded: "LoadedModel", text: str, tokens: int, trains: Trains = ((), 0), track: Track = silent
) -> tuple[SpikeRecord, dict[str, Array]]:
    """Record a model on the first tokens of a text.

    Args:
        loaded: a converted model with its tokenizer.
        text: what to read; its windows are independent sequences.
        tokens: how many tokens to read at most.
        trains: whose spike trains to keep.
        track: progress display.

    Raises:
        SpikeconvError: the text is empty, a pattern matches no linear, or the model sends no spikes.
    """
    model = loaded.model
    ids = text_ids(model, loaded.tokenizer, text)[:tokens]
    if not len(ids):
        raise SpikeconvError("The text is empty; give one with at least one token.")
    windows = windows_of(model, ids)
    first = max(1, POTENTIAL_TOKENS // len(windows[0]))
    kept = _Trains(model, *trains)

    def run() -> None:
        with PotentialRecorder(model) as potentials:
            for index, window in enumerate(track(windows, "recording spikes", len(windows))):
                if index == first:
                    potentials.__exit__(None, None, None)
                model(input_ids=window[None].to(model.device), use_cache=False, logits_to_keep=1)
        arrays["potentials"] = potentials.histograms.numpy()
        arrays["potential_edges"] = EDGES.numpy()

    arrays: dict[str, Array] = {}
    record = _recorded(model, run, kept, arrays)
    return record, arrays


def record_task(
    model: Any, run: Callable[[], object], trains: Trains = ((), 0)
) -> tuple[SpikeRecord, dict[str, Array]]:
    """Record a model while a task is scored on it; arguments as `record_texts`'. Potentials are not looked at."""
    arrays: dict[str, Array] = {}
    record = _recorded(model, run, _Trains(model, *trains), arrays)
    return record, arrays


def _recorded(model: Any, run: Callable[[], object], kept: "_Trains", arrays: dict[str, Array]) -> SpikeRecord:
    try:
        with PositionRecorder(model, WINDOW) as positions:
            record = record_run(model, run)
    finally:
        kept.close()
    arrays["encoders"] = np.array(positions.names)
    arrays["position_spikes"] = positions.spikes_per_input.numpy()
    for name, train in kept.trains().items():
        arrays[f"raster:{name}"] = train.numpy()
    return record


class _Trains:
    """Keeps the counts of the first tokens of some linears."""

    def __init__(self, model: Any, patterns: tuple[str, ...], tokens: int) -> None:
        linears = spike_linears(model)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in linears):
                raise SpikeconvError(
                    f"No converted linear is called {pattern}, as one is {next(iter(linears), 'none')}."
                )
        self._tokens = tokens
        self._kept: dict[str, tuple[Encoder, list[Tensor]]] = {}
        self._observers: list[tuple[Encoder, Any]] = []
        for name, linear in linears.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns) and linear.encoder.codec is not None:
                self._kept[name] = linear.encoder, []
                self._observers.append((linear.encoder, partial(self._see, name)))
                linear.encoder.observers.append(self._observers[-1][1])

    def close(self) -> None:
        """Look no further."""
        for encoder, observer in self._observers:
            encoder.observers.remove(observer)
        self._observers = []

    def trains(self) -> dict[str, Tensor]:
        """int8 [slots, tokens, inputs] by name."""
        found = {}
        for name, (encoder, counts) in self._kept.items():
            if counts and encoder.codec is not None:
                few = torch.cat(counts)[: self._tokens]
                found[name] = encoder.codec.unfold(few, encoder.code).cpu()
        return found

    def _see(self, name: str, encoded: SpikeCounts) -> None:
        counts, kept = encoded.counts, self._kept[name][1]
        if encoded.stacked:  # the first plane: the most significant digits
            counts = counts[0]
        have = sum(map(len, kept))
        if have < self._tokens:
            kept.append(counts.reshape(-1, counts.shape[-1])[: self._tokens - have].clone())
