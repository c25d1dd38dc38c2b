"""Runs text through a converted model and records its spikes."""

from collections import Counter
from typing import Any

import torch

from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.nn import spike_linears
from spikeconv.progress import Track, silent
from spikeconv.record.layers import cache_records, layer_records
from spikeconv.record.neurons import NeuronRecorder
from spikeconv.record.record import SpikeRecord
from spikeconv.record.recorder import Recorder

__all__ = ["WINDOW", "record_text"]

WINDOW = 1024


def record_text(model: Any, tokenizer: Any, text: str, *, tokens: int = WINDOW, track: Track = silent) -> SpikeRecord:
    """Run text through a model and record its spikes.

    Args:
        model: a converted model.
        tokenizer: its tokenizer.
        text: what to read; windows of 1,024 tokens (or what the model holds) are independent sequences.
        tokens: how many tokens to read at most.
        track: progress display.

    Raises:
        SpikeconvError: the text is empty, or neither activations nor keys and values are spikes.
    """
    ids = text_ids(model, tokenizer, text)[:tokens]
    if not len(ids):
        raise SpikeconvError("The text is empty; give one with at least one token.")
    family, config = family_of(model), model.config.get_text_config()
    # What has learned its positions reads no further.
    windows = ids.split(min(WINDOW, config.max_position_embeddings) if family.encodes else WINDOW)
    with Recorder(model) as recorder, NeuronRecorder(model) as own, torch.inference_mode():
        for window in track(windows, "counting spikes", len(windows)):
            model(window[None].to(model.device), use_cache=False, logits_to_keep=1)
    layers, cache = tuple(layer_records(model, recorder)), cache_records(model, recorder)
    if not layers and not cache and not own.records:
        raise SpikeconvError("This checkpoint has float activations: it emits no spikes to count.")
    spiking = {layer.name for layer in layers}
    linears = (model.get_submodule(each.name) for each in family.layout(config) if each.name not in spiking)
    streams = max((linear.encoder.streams for linear in spike_linears(model).values()), default=1)
    macs: Counter[str] = Counter()
    for window in windows:
        macs.update(family.float_macs(config, len(window)))
    macs["attention"] *= streams
    return SpikeRecord(
        family=family.model_type,
        sequences=tuple(map(len, windows)),
        layers=layers,
        cache=cache,
        float_linears=tuple((linear.in_features, linear.out_features) for linear in linears) * streams,
        float_macs={name: count for name, count in macs.items() if count},
        neurons=own.records,
        streams=streams,
    )
