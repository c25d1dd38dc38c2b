"""Runs a model and records its spikes: whatever runs it, token by token or task by task, in constant memory."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.nn import finish_first_forward, spike_linears
from spikeconv.record.connections import ConnectionRecorder, footprint_of
from spikeconv.record.layers import cache_records, layer_records
from spikeconv.record.neurons import NeuronRecorder
from spikeconv.record.record import SpikeRecord
from spikeconv.record.recorder import Recorder

__all__ = ["record_run"]


def record_run(model: Any, run: Callable[[], object], *, connections: bool = False) -> SpikeRecord:
    """Record what a model does while something runs it.

    Every forward of the model is as many sequences as its batch has rows; padding is counted as what it is, tokens.

    Args:
        model: a converted model.
        run: runs it.
        connections: whether to look at what each weight met, which takes about as long again.

    Raises:
        SpikeconvError: it was not run, or neither activations nor keys and values are spikes.
    """
    family, config, seen = family_of(model), model.config.get_text_config(), Counter[int]()

    def see(_module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = options.get("input_ids", arguments[0] if arguments else None)
        if isinstance(ids, Tensor):
            seen[ids.shape[-1]] += len(ids)

    finish_first_forward(model)  # which the modules run, whoever runs the others
    hook = model.register_forward_pre_hook(see, with_kwargs=True)
    try:
        with (
            Recorder(model) as recorder,
            NeuronRecorder(model) as own,
            ConnectionRecorder(model) if connections else nullcontext() as met,
            torch.inference_mode(),
        ):
            run()
    finally:
        hook.remove()
    layers = tuple(layer if met is None else met.told(layer) for layer in layer_records(model, recorder))
    cache = cache_records(model, recorder)
    if not layers and not cache and not own.records:
        raise SpikeconvError("This checkpoint has float activations: it emits no spikes to count.")
    spiking = {layer.name for layer in layers}
    linears = (model.get_submodule(each.name) for each in family.layout(config) if each.name not in spiking)
    streams = max((linear.encoder.streams for linear in spike_linears(model).values()), default=1)
    macs: Counter[str] = Counter()
    for tokens, times in seen.items():
        macs.update({name: times * count for name, count in family.float_macs(config, tokens).items()})
    macs["attention"] *= streams
    return SpikeRecord(
        family=family.model_type,
        sequences=tuple(seen.elements()),
        layers=layers,
        cache=cache,
        float_linears=tuple((linear.in_features, linear.out_features) for linear in linears) * streams,
        float_macs={name: count for name, count in macs.items() if count},
        neurons=own.records,
        streams=streams,
        footprint=footprint_of(model),
    )
