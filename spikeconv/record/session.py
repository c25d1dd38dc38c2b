"""One recording of everything: counts, positions, potentials, and spike trains of chosen linears."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.nn import finish_first_forward, spike_linears
from spikeconv.progress import Track, silent
from spikeconv.ranks import ALONE, Ranks
from spikeconv.record.about import about, about_text
from spikeconv.record.file import Array, Recording
from spikeconv.record.parts import Part, arrays_of, whole_of
from spikeconv.record.positions import PositionRecorder
from spikeconv.record.potentials import PotentialRecorder
from spikeconv.record.record import SpikeRecord
from spikeconv.record.run import record_run
from spikeconv.record.text import WINDOW, windows_of
from spikeconv.record.watching import KeptCounts, first_linears
from spikeconv.suggest import matching

if TYPE_CHECKING:
    from spikeconv.loading import LoadedModel

__all__ = ["record_task", "record_texts", "recording_of", "some_trains"]

POTENTIAL_TOKENS = 2048
"""Tokens whose potentials are looked at: each costs a second encode."""

Trains = tuple[tuple[str, ...], int]
"""Names or patterns of linears, and how many tokens of their spike trains are kept."""


def some_trains(model: Any) -> tuple[str, ...]:
    """Three linears whose spike trains say something of all: the first, one in the middle, and the last encoder's."""
    names = list(first_linears(model))
    return tuple(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))) if names else ()


def recording_of(
    loaded: "LoadedModel",
    content: str,
    label: str,
    tokens: int,
    trains: Trains = ((), 0),
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> Recording:
    """What `record_texts` finds in a text of that name, and what it is of."""
    record, arrays = record_texts(loaded, content, tokens, trains, track, ranks)
    return Recording(record, about(loaded.model, loaded.path, record, about_text(content, label)), arrays)


def record_texts(
    loaded: "LoadedModel",
    text: str,
    tokens: int,
    trains: Trains = ((), 0),
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> tuple[SpikeRecord, dict[str, Array]]:
    """Record a model on the first tokens of a text.

    Args:
        loaded: a converted model with its tokenizer.
        text: what to read; its windows are independent sequences.
        tokens: how many tokens to read at most.
        trains: whose spike trains to keep.
        track: progress display.
        ranks: processes that share the windows; each gets the whole recording, which is that of one process.

    Raises:
        SpikeconvError: the text is empty, a pattern matches no linear, or the model sends no spikes.
    """
    model = loaded.model
    ids = text_ids(model, loaded.tokenizer, text)[:tokens]
    if not len(ids):
        raise SpikeconvError("The text is empty; give one with at least one token.")
    windows = windows_of(model, ids)
    share = ranks.share(windows)

    def run() -> None:
        for window in track(share, "recording spikes", len(share)):
            model(input_ids=window[None].to(model.device), use_cache=False, logits_to_keep=1)

    before = sum(map(len, windows[: ranks.bounds(len(windows))[0]]))
    part = record_part(model, run, trains, before) if share else None
    whole = whole_of([each for each in ranks.gather(part) if each is not None])
    words = [loaded.tokenizer.decode([token]) for token in ids[: trains[1]].tolist()]
    return whole.record, {**arrays_of(whole), "raster_tokens": np.array(words, np.str_)}


def record_task(
    model: Any, run: Callable[[], object], trains: Trains = ((), 0), ranks: Ranks = ALONE
) -> tuple[SpikeRecord, dict[str, Array]]:
    """Record a model while something runs it, as a task that is scored on it; arguments as `record_texts`'.

    Of the batches of a task padding is counted as what it is, tokens that are computed; several processes form batches
    of their own. Potentials and spike trains are those of the first process.
    """
    part = record_part(model, run, trains, 0 if ranks.is_first else max(POTENTIAL_TOKENS, trains[1]))
    whole = whole_of(ranks.gather(part))
    return whole.record, arrays_of(whole)


def record_part(model: Any, run: Callable[[], object], trains: Trains, before: int) -> Part:
    """Record a model while something runs it, on what comes after so many tokens."""
    patterns, most = trains
    finish_first_forward(model)
    kept = KeptCounts(model, matching(spike_linears(model), patterns), max(0, most - before))
    potentials = PotentialRecorder(model, max(0, POTENTIAL_TOKENS - before))
    with PositionRecorder(model, WINDOW) as positions, potentials, kept:
        record = record_run(model, run, connections=True)
    return Part(
        record,
        tuple(positions.names),
        positions.spikes,
        positions.inputs,
        potentials.histograms,
        potentials.alternatives,
        {name: train.cpu() for name, train in kept.trains().items()},
    )
