"""The operations of a model, part by part: what every energy account is made of. Counts, no joules.

A part is the linears of a role, attention, or what else stays in floating point. They come from a recording, or from
shapes alone and an assumed firing rate.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from spikeconv.codes import code_for
from spikeconv.config import FLOAT_BITS, FloatInputs, InputSettings, LinearScheme
from spikeconv.record.record import SpikeRecord
from spikeconv.report.firing_rate import firing_report
from spikeconv.report.operations import SPIKE_CELLS, linear_macs

__all__ = ["Attention", "Shape", "Work", "assumed_work", "recorded_work", "without_gqa"]

Attention = Literal["float", "linears", "none"]
"""How the products of attention are counted where keys and values are float: as they are; as SDLLM's tables have it, as
if they were linears with the widths and the mean rate of those; or not at all."""


@dataclass(frozen=True)
class Work:
    """One part.

    Attributes:
        part: a role, `attention`, `head`, …
        macs: multiply-accumulates of the float model.
        weight_bits, count_bits: widths of the dense integer product of the same information.
        spike_cells: bit cells of a spike: 2 ternary, 1 binary; 0 where nothing is sent as spikes.
        spikes: that reach the part, each to all its outputs.
        accumulations: signed additions instead of `macs`; 0 where nothing is sent as spikes.
        nonzero_macs: `macs` of the inputs that are not zero; None where that is not known.
        membrane_additions, membrane_shifts: of the outputs, slot by slot.
        encoded: inputs that become counts.
        rotation_additions: of the Hadamard transforms.
    """

    part: str
    macs: float
    weight_bits: int = FLOAT_BITS
    count_bits: int = FLOAT_BITS
    spike_cells: int = 0
    spikes: float = 0.0
    accumulations: float = 0.0
    nonzero_macs: float | None = None
    membrane_additions: float = 0.0
    membrane_shifts: float = 0.0
    encoded: float = 0.0
    rotation_additions: float = 0.0

    @property
    def is_spiking(self) -> bool:
        """Whether its products became additions."""
        return self.spike_cells > 0

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What parts must share to be one."""
        return self.part, self.weight_bits, self.count_bits, self.spike_cells


class Shape(NamedTuple):
    """One linear without weights.

    Attributes:
        role, in_features, out_features, scheme: of the linear.
        encodes: whether it encodes its input itself, and does not share what another has encoded.
        rotation_additions: of the transform of one input vector.
    """

    role: str
    in_features: int
    out_features: int
    scheme: LinearScheme
    encodes: bool = False
    rotation_additions: int = 0


def recorded_work(record: SpikeRecord, attention: Attention = "float") -> list[Work]:
    """The work that a recording saw."""
    report, parts = firing_report(record), []
    for layer, firing in zip(record.layers, report.layers, strict=True):
        inputs = layer.scheme.inputs
        parts.append(
            Work(
                layer.role,
                firing.macs,
                layer.scheme.weights.bits,
                _width(inputs),
                SPIKE_CELLS.get(inputs.spikes, 0),
                layer.spikes if inputs.spikes in SPIKE_CELLS else 0.0,
                firing.accumulations if inputs.spikes in SPIKE_CELLS else 0.0,
                firing.macs * (1 - layer.zero_share),
                firing.membrane_additions,
                firing.membrane_shifts,
                layer.tokens * layer.in_features if layer.encodes else 0,
                firing.rotation_additions,
            )
        )
    for kind, cached in report.cache.items():
        settings = record.cache[kind].scheme
        cells = SPIKE_CELLS["ternary" if settings.symmetric else "binary"]
        name = "keys" if kind == "k" else "values"
        parts.append(
            Work(
                name,
                cached.macs,
                FLOAT_BITS,
                settings.bits,
                cells,
                accumulations=cached.accumulations,
                nonzero_macs=cached.macs * (1 - cached.zero_share),
                membrane_additions=cached.membrane_additions,
                membrane_shifts=cached.membrane_shifts,
            )
        )
    return _together(parts) + _floats(parts, report.total.float_macs, attention)


def without_gqa(shapes: Iterable[Shape]) -> list[Shape]:
    """The same with as many heads of keys and values as of queries, as some published tables count."""
    result: list[Shape] = []
    queries = 0
    for shape in shapes:
        queries = shape.out_features if shape.role == "q" else queries
        result.append(shape._replace(out_features=queries) if shape.role in ("k", "v") else shape)
    return result


def assumed_work(
    shapes: Iterable[Shape],
    float_macs: Mapping[str, float],
    tokens: int,
    rate: float,
    zeros: float | None = None,
    attention: Attention = "float",
) -> list[Work]:
    """The work of shapes at a firing rate.

    Args:
        shapes: of the converted linears.
        float_macs: what stays in floating point, by what it is for.
        tokens: of one text.
        rate: spikes of an input over the slots of its code, the same everywhere.
        zeros: share of zero counts; None: not known.
        attention: how its products are counted.
    """
    parts = []
    for shape in shapes:
        inputs, macs = shape.scheme.inputs, linear_macs(tokens, shape.in_features, shape.out_features)
        cells, cost = SPIKE_CELLS.get(inputs.spikes, 0), None
        if cells and not isinstance(inputs, FloatInputs):
            cost = code_for(shape.scheme.code).cost(inputs.largest_count)
        spikes = rate * cost.slots if cost is not None else 0.0
        parts.append(
            Work(
                shape.role,
                macs,
                shape.scheme.weights.bits,
                _width(inputs),
                cells,
                spikes * tokens * shape.in_features,
                spikes * macs,
                None if zeros is None else macs * (1 - zeros),
                0 if cost is None else cost.additions * tokens * shape.out_features,
                0 if cost is None else cost.doublings * tokens * shape.out_features,
                tokens * shape.in_features if shape.encodes else 0,
                tokens * shape.rotation_additions if shape.encodes else 0,
            )
        )
    return _together(parts) + _floats(parts, float_macs, attention)


def _width(inputs: InputSettings) -> int:
    """Bits of the counts in a dense product: of their width, or of all that the slots of a code reach."""
    if isinstance(inputs, FloatInputs):
        return FLOAT_BITS
    if inputs.count_min >= 0:
        return max(inputs.bits, inputs.largest_count.bit_length())
    return max(inputs.bits, 1 + inputs.count_max.bit_length(), 1 + (-inputs.count_min - 1).bit_length())


def _together(parts: list[Work]) -> list[Work]:
    """Parts of one name and kind added up, in order."""
    found: dict[tuple[str, int, int, int], Work] = {}
    for part in parts:
        first = found.get(part.key)
        found[part.key] = part if first is None else _sum(first, part)
    return list(found.values())


def _sum(first: Work, other: Work) -> Work:
    known = None not in (first.nonzero_macs, other.nonzero_macs)
    return replace(
        first,
        macs=first.macs + other.macs,
        spikes=first.spikes + other.spikes,
        accumulations=first.accumulations + other.accumulations,
        nonzero_macs=(first.nonzero_macs or 0.0) + (other.nonzero_macs or 0.0) if known else None,
        membrane_additions=first.membrane_additions + other.membrane_additions,
        membrane_shifts=first.membrane_shifts + other.membrane_shifts,
        encoded=first.encoded + other.encoded,
        rotation_additions=first.rotation_additions + other.rotation_additions,
    )


def _floats(parts: list[Work], float_macs: Mapping[str, float], attention: Attention) -> list[Work]:
    """What stays in floating point, and attention as it is wanted."""
    result = []
    like = next((part for part in parts if part.count_bits != FLOAT_BITS), None)
    alike = [part for part in parts if like is not None and part.key[1:] == like.key[1:]]
    total = sum(part.macs for part in alike)
    for name, macs in float_macs.items():
        if name != "attention" or attention == "float" or (attention == "linears" and like is None):
            result.append(Work(name, macs))
        elif attention == "linears" and like is not None:
            nonzero = [part.nonzero_macs for part in alike]
            sent = macs * sum(part.accumulations for part in alike) / total
            known = None if None in nonzero else macs * sum(value or 0.0 for value in nonzero) / total
            result.append(Work(name, macs, *like.key[1:], accumulations=sent, nonzero_macs=known))
    return result
