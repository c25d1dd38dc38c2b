"""Recordings of parts of one text, made by several processes, as the recording of all of it: counts add up.

Nothing is rounded on the way: a part holds sums of integers, and only the whole one divides.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.record.file import Array
from spikeconv.record.potentials import EDGES
from spikeconv.record.record import CacheRecord, Histogram, LayerRecord, SpikeRecord

__all__ = ["Part", "arrays_of", "merge_records", "whole_of"]


@dataclass(frozen=True)
class Part:
    """What was recorded of a part.

    Attributes:
        record: what was counted.
        names: the first linear of each encoder.
        spikes, inputs: sums by position, float64 and int64 [encoders, positions]; the first are integers too.
        potentials, alternatives: histograms, int64 [encoders, bins] and [encoders, 3, 16].
        trains: spike trains of chosen linears, int8 [slots, rows, in] by name.
    """

    record: SpikeRecord
    names: tuple[str, ...]
    spikes: Tensor
    inputs: Tensor
    potentials: Tensor
    alternatives: Tensor
    trains: dict[str, Tensor]


def whole_of(parts: Sequence[Part]) -> Part:
    """What was recorded of all, from parts in the order of the text.

    Raises:
        SpikeconvError: there is none, or they are of different models.
    """
    if not parts:
        raise SpikeconvError("Nothing was recorded.")
    if any(part.names != parts[0].names for part in parts):
        raise SpikeconvError("Recordings of different models have no sum.")
    trains = {name: [part.trains[name] for part in parts if name in part.trains] for name in parts[0].trains}
    return Part(
        merge_records([part.record for part in parts]),
        parts[0].names,
        sum_of([part.spikes for part in parts]),
        sum_of([part.inputs for part in parts]),
        sum_of([part.potentials for part in parts]),
        sum_of([part.alternatives for part in parts]),
        {name: torch.cat(each, 1) for name, each in trains.items()},
    )


def arrays_of(part: Part) -> dict[str, Array]:
    """The arrays of a recording."""
    return {
        "encoders": np.array(part.names),
        "position_spikes": (part.spikes / part.inputs).float().numpy(),
        "potentials": part.potentials.numpy(),
        "potential_edges": EDGES.numpy(),
        "alternatives": part.alternatives.numpy(),
        **{f"raster:{name}": train.numpy() for name, train in part.trains.items()},
    }


def merge_records(records: Sequence[SpikeRecord]) -> SpikeRecord:
    """The record of all texts together.

    Raises:
        SpikeconvError: they are of different models.
    """
    return reduce(_both, records)


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Of tensors of one shape."""
    return torch.stack(list(tensors)).sum(0)


def _both(one: SpikeRecord, other: SpikeRecord) -> SpikeRecord:
    if _model(one) != _model(other):
        raise SpikeconvError("Recordings of different models have no sum.")
    lengths = Counter(one.sequences) + Counter(other.sequences)
    macs = Counter(one.float_macs)
    macs.update(other.float_macs)
    return replace(
        one,
        sequences=tuple(lengths.elements()),
        layers=tuple(map(_layer, one.layers, other.layers)),
        cache={kind: _cache(cached, other.cache[kind]) for kind, cached in one.cache.items()},
        float_macs=dict(macs),
        neurons=tuple(
            replace(mine, tokens=mine.tokens + theirs.tokens, spikes=mine.spikes + theirs.spikes)
            for mine, theirs in zip(one.neurons, other.neurons, strict=True)
        ),
    )


def _model(record: SpikeRecord) -> tuple[object, ...]:
    """What records of one model have in common; the settings of linears are compared one by one."""
    parts = [*record.cache], [neurons.name for neurons in record.neurons], len(record.layers)
    return record.family, record.float_linears, record.streams, record.footprint, *parts


def _layer(one: LayerRecord, other: LayerRecord) -> LayerRecord:
    summed = ("tokens", "inputs", "histogram", "effective")
    if any(getattr(one, name) != getattr(other, name) for name in vars(one) if name not in summed):
        raise SpikeconvError(f"{one.name} and {other.name} are recordings of different linears, which have no sum.")
    effective = None if one.effective is None or other.effective is None else one.effective + other.effective
    histogram = _sum(one.histogram, other.histogram)
    return replace(
        one,
        tokens=one.tokens + other.tokens,
        inputs=one.inputs + other.inputs,
        histogram=histogram,
        effective=effective,
    )


def _cache(one: CacheRecord, other: CacheRecord) -> CacheRecord:
    histogram = _sum(one.histogram, other.histogram)
    return replace(one, states=one.states + other.states, histogram=histogram)


def _sum(one: Histogram, other: Histogram) -> Histogram:
    return {count: one.get(count, 0) + other.get(count, 0) for count in sorted({*one, *other})}
