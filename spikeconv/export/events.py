"""Address events: one row for every spike that reaches a linear, in the order in which it is sent.

    layer   int32   which of `names`
    token   int32   of the text
    slot    int16   of the code (of neurons: the time step)
    neuron  int32   input of the linear
    sign    int8    1 or -1
    names   the linears
    slot_weight:NAME int32 [slots]   what a spike of each slot is worth
    scale:NAME float32 [tokens], zero_point:NAME int32 [tokens]   of the counts, where there are any

Synchronous order: layer, token, slot, neuron: all neurons on one clock. Asynchronous: layer, token, neuron, slot: each
neuron sends its count at once. Σ over the events of a token of slot_weight · sign · weight[:, neuron] is the linear's
accumulator.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeconv.errors import SpikeconvError
from spikeconv.nn import SpikeLinear, spike_linears
from spikeconv.record.watching import KeptCounts
from spikeconv.suggest import matching

__all__ = ["Order", "event_arrays", "spiking_linears"]

Order = Literal["sync", "async"]


def spiking_linears(model: nn.Module, patterns: Iterable[str] | None = None) -> list[str]:
    """Names of the linears that some patterns mean; of the first, without patterns.

    Raises:
        SpikeconvError: the model sends no spikes, or a pattern means none of its linears.
    """
    known = [name for name, linear in spike_linears(model).items() if linear.encoder.codec is not None]
    if not known:
        raise SpikeconvError(f"This {type(model).__name__} sends no spikes: its inputs stay float.")
    return matching(known, patterns or [known[0]])


def event_arrays(
    model: nn.Module, names: list[str], run: Callable[[], object], order: Order = "sync"
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The events of some linears while something runs their model, one token after the other.

    Raises:
        SpikeconvError: one sends no spikes of one plane and one scale, or none of them was run.
    """
    linears = spike_linears(model)
    with KeptCounts(model, names) as seen, torch.inference_mode():
        run()
    columns: dict[str, list[Tensor]] = {column: [] for column in ("layer", "token", "slot", "neuron", "sign")}
    others: list[tuple[str, NDArray[Any]]] = []
    for index, name in enumerate(names):
        linear, encoded = linears[name], [each.spikes for each in seen.kept[name]]
        if not encoded:
            raise SpikeconvError(f"{name} was not run.")
        if encoded[0].has_planes or encoded[0].steps > 1:
            raise SpikeconvError(f"{name} sends several planes or streams; its events are not one train.")
        counts = torch.cat([each.counts.reshape(-1, each.counts.shape[-1]) for each in encoded])
        for column, values in zip(columns, _events(index, linear, counts, order), strict=True):
            columns[column].append(values)
        assert linear.encoder.codec is not None
        weights = linear.encoder.code.weights(linear.encoder.codec.largest_count)
        others.append((f"slot_weight:{name}", np.array(weights, np.int32)))
        others.append((f"scale:{name}", torch.cat([each.scale.reshape(-1) for each in encoded]).cpu().numpy()))
        zeros = [each.zero_point.reshape(-1) for each in encoded if each.zero_point is not None]
        if zeros:
            others.append((f"zero_point:{name}", torch.cat(zeros).int().cpu().numpy()))
    yield "names", np.array(names)
    for column, dtype in zip(columns, (np.int32, np.int32, np.int16, np.int32, np.int8), strict=True):
        yield column, torch.cat(columns[column]).cpu().numpy().astype(dtype)
    yield from others


def _events(index: int, linear: SpikeLinear, counts: Tensor, order: Order) -> tuple[Tensor, ...]:
    """layer, token, slot, neuron and sign of every spike of counts [tokens, in]."""
    codec = linear.encoder.codec
    assert codec is not None
    train = codec.unfold(counts, linear.encoder.code)  # [slots, tokens, in]
    places = train.permute(1, 0, 2) if order == "sync" else train.permute(1, 2, 0)
    at = places.nonzero()
    token, second, third = at.unbind(1)
    slot, neuron = (second, third) if order == "sync" else (third, second)
    return torch.full_like(token, index), token, slot, neuron, train[slot, token, neuron]
