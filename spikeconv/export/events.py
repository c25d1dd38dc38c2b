"""Address events: one row for every spike that reaches a linear, in the order in which it is sent.

    layer   int32   which of `names`
    token   int32   of the text
    slot    int16   of the code, of decimal digits one after the other
    neuron  int32   input of the linear
    sign    int8    1 or -1
    names   the linears
    slot_weight:NAME int32 [slots]   what a spike of each slot is worth
    scale:NAME float32 [tokens], zero_point:NAME int32 [tokens]   of the counts, where there are any

Synchronous order: layer, token, slot, neuron: all neurons on one clock. Asynchronous: layer, token, neuron, slot: each
neuron sends its count at once. Σ over the events of a token of slot_weight · sign · weight[:, neuron] is the linear's
accumulator.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeconv.export.trains import Trains

__all__ = ["Order", "event_arrays", "places"]

Order = Literal["sync", "async"]

COLUMNS = {"layer": np.int32, "token": np.int32, "slot": np.int16, "neuron": np.int32, "sign": np.int8}


def event_arrays(trains: dict[str, Trains], order: Order = "sync") -> Iterator[tuple[str, NDArray[Any]]]:
    """The events of some linears, by name."""
    rows: list[tuple[Tensor, ...]] = []
    for index, train in enumerate(trains.values()):
        token, slot, neuron, sign = places(train.spikes, order)
        rows.append((torch.full_like(token, index), token, slot, neuron, sign))
    yield "names", np.array(list(trains))
    for (column, dtype), values in zip(COLUMNS.items(), zip(*rows, strict=True), strict=True):
        yield column, torch.cat(values).cpu().numpy().astype(dtype)
    for name, train in trains.items():
        yield f"slot_weight:{name}", np.array(train.slot_weights, np.int32)
        yield f"scale:{name}", train.scale.cpu().numpy()
        if train.zero_point is not None:
            yield f"zero_point:{name}", train.zero_point.cpu().numpy()


def places(train: Tensor, order: Order = "sync") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token, slot, neuron and sign of every spike of a train [slots, tokens, in]."""
    at = (train.permute(1, 0, 2) if order == "sync" else train.permute(1, 2, 0)).nonzero()
    token, second, third = at.unbind(1)
    slot, neuron = (second, third) if order == "sync" else (third, second)
    return token, slot, neuron, train[slot, token, neuron]
