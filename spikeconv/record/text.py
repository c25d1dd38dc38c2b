"""Runs text through a converted model and records its spikes."""

from typing import Any

from torch import Tensor

from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.progress import Track, silent
from spikeconv.record.record import SpikeRecord
from spikeconv.record.run import record_run

__all__ = ["WINDOW", "record_text", "windows_of"]

WINDOW = 1024


def record_text(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    tokens: int = WINDOW,
    connections: bool = False,
    track: Track = silent,
) -> SpikeRecord:
    """Run text through a model and record its spikes.

    Args:
        model: a converted model.
        tokenizer: its tokenizer.
        text: what to read; windows of 1,024 tokens (or what the model holds) are independent sequences.
        tokens: how many tokens to read at most.
        connections: see `record_run`.
        track: progress display.

    Raises:
        SpikeconvError: the text is empty, or neither activations nor keys and values are spikes.
    """
    ids = text_ids(model, tokenizer, text)[:tokens]
    if not len(ids):
        raise SpikeconvError("The text is empty; give one with at least one token.")
    windows = windows_of(model, ids)

    def run() -> None:
        for window in track(windows, "counting spikes", len(windows)):
            model(input_ids=window[None].to(model.device), use_cache=False, logits_to_keep=1)

    return record_run(model, run, connections=connections)


def windows_of(model: Any, ids: Tensor) -> list[Tensor]:
    """Token ids [tokens] in windows that a model reads; what has learned its positions reads no further."""
    family, config = family_of(model), model.config.get_text_config()
    return list(ids.split(min(WINDOW, config.max_position_embeddings) if family.encodes else WINDOW))
