"""Where spikes are: by layer and role, by a token's position, and one by one in the trains that were kept."""

import math
from dataclasses import dataclass

import numpy as np

from spikeconv.record.file import Array, Recording
from spikeconv.record.record import SpikeRecord
from spikeconv.report.inputs import EncodedInput, encoded_inputs, roles_of

__all__ = ["Grid", "Raster", "position_grid", "rasters", "rate_grid"]

MOST_BINS = 64
"""Of positions: one is as wide as it takes."""


@dataclass(frozen=True)
class Grid:
    """A value for each row and column; None where there is none.

    Attributes:
        what: the value, with its unit.
        rows, columns: their names.
        values: by row.
    """

    what: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Raster:
    """The spike train of one linear's input.

    Attributes:
        name: the linear.
        roles: of all linears that read it.
        train: int8 [slots, tokens, inputs] of -1, 0 and 1.
        tokens: as text; empty where that was not recorded.
    """

    name: str
    roles: str
    train: Array
    tokens: tuple[str, ...]


def rate_grid(record: SpikeRecord) -> Grid | None:
    """Firing rates by layer and role; mean |count| where counts are sent whole; None without linears that spike."""
    inputs = encoded_inputs(record)
    rates = [each.record.firing_rate for each in inputs]
    if not inputs:
        return None
    whole = all(rate is None for rate in rates)
    values = [each.record.mean_count for each in inputs] if whole else rates
    what = "mean |count| of an input" if whole else "firing rate: spikes of an input ÷ slots"
    return _grid(what, inputs, roles_of(inputs), dict(zip((each.name for each in inputs), values, strict=True)))


def _grid(what: str, inputs: list[EncodedInput], columns: list[str], values: dict[str, float | None]) -> Grid:
    rows = _layer_names(inputs)
    cells = {(rows[each.name], each.roles): values[each.name] for each in inputs}
    names = list(dict.fromkeys(rows.values()))
    table = tuple(tuple(cells.get((row, column)) for column in columns) for row in names)
    return Grid(what, tuple(names), tuple(columns), table)


def _layer_names(inputs: list[EncodedInput]) -> dict[str, str]:
    """The row of each input: its layer, with what tells stacks apart where there are several."""
    stacks = list(dict.fromkeys(each.stack for each in inputs))
    if len(stacks) == 1:
        return {each.name: str(each.layer) for each in inputs}
    return {each.name: f"{each.stack.removesuffix('.layers').rsplit('.', 1)[-1]} {each.layer}" for each in inputs}


def position_grid(recording: Recording) -> Grid | None:
    """Mean spikes of an input by layer and position, all roles together; None where that was not recorded."""
    if not {"encoders", "position_spikes"} <= recording.arrays.keys():
        return None
    spikes = recording.arrays["position_spikes"]
    seen = np.flatnonzero(np.isfinite(spikes).any(axis=0))
    length = int(seen[-1]) + 1 if seen.size else 0
    rows = {str(name): row for row, name in enumerate(recording.arrays["encoders"])}
    inputs = [each for each in encoded_inputs(recording.record) if each.name in rows]
    if not length or not inputs:
        return None
    width = math.ceil(length / MOST_BINS)
    bounds = [(start, min(start + width, length)) for start in range(0, length, width)]
    names = _layer_names(inputs)
    values = []
    for layer in dict.fromkeys(names.values()):
        chosen = spikes[[rows[each.name] for each in inputs if names[each.name] == layer]]
        values.append(tuple(_mean(chosen[:, start:stop]) for start, stop in bounds))
    columns = tuple(str(start) if width == 1 else f"{start}-{stop - 1}" for start, stop in bounds)
    return Grid("spikes of an input", tuple(dict.fromkeys(names.values())), columns, tuple(values))


def _mean(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def rasters(recording: Recording) -> list[Raster]:
    """The trains that a recording holds, in the model's order."""
    tokens = tuple(map(str, recording.arrays.get("raster_tokens", ())))
    result = []
    for each in encoded_inputs(recording.record):
        name = next((name for name in each.members if f"raster:{name}" in recording.arrays), None)
        if name is not None:
            train = recording.arrays[f"raster:{name}"]
            result.append(Raster(name, each.roles, train, tokens[: train.shape[1]]))
    return result
