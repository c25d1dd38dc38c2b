"""A record by encoders instead of linears: q, k and v read the same counts, so they are one row, not three alike."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from spikeconv.record.record import Histogram, LayerRecord, SpikeRecord
from spikeconv.report.operations import SPIKE_CELLS

__all__ = ["EncodedInput", "encoded_inputs", "merged", "roles_of"]


@dataclass(frozen=True)
class EncodedInput:
    """What one encoder saw.

    Attributes:
        name: its first linear.
        members: all linears that read it.
        roles: of all linears that read it, as in `q, k, v`.
        stack: where the layers lie, as in `model.layers`; empty for a linear outside them.
        layer: its place in them.
        record: of the first linear.
    """

    name: str
    members: tuple[str, ...]
    roles: str
    stack: str
    layer: int
    record: LayerRecord

    @property
    def sends_spikes(self) -> bool:
        """Whether its counts travel as spikes, and not whole."""
        return self.record.scheme.inputs.spikes in SPIKE_CELLS


def encoded_inputs(record: SpikeRecord) -> list[EncodedInput]:
    """The encoders of a record, in order."""
    members: list[list[LayerRecord]] = []
    for layer in record.layers:
        # A member has its encoder's histogram, and comes after it: nearly always that is the last one.
        alike = (group for group in reversed(members) if group[0].histogram == layer.histogram)
        own = None if layer.encodes else next(alike, None)
        members.append([layer]) if own is None else own.append(layer)
    return [_input(group) for group in members]


def _input(members: list[LayerRecord]) -> EncodedInput:
    first = members[0]
    roles = ", ".join(dict.fromkeys(member.role for member in members))
    place = re.match(r"(.*?)\.(\d+)\.", f"{first.name}.")
    names = tuple(member.name for member in members)
    return EncodedInput(first.name, names, roles, place[1] if place else "", int(place[2]) if place else 0, first)


def roles_of(inputs: Iterable[EncodedInput]) -> list[str]:
    """Their roles, each once, in order."""
    return list(dict.fromkeys(each.roles for each in inputs))


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Histograms added up, by count in ascending order, without what never came."""
    total: Histogram = {}
    for histogram in histograms:
        for count, times in histogram.items():
            total[count] = total.get(count, 0) + times
    return {count: total[count] for count in sorted(total) if total[count]}
