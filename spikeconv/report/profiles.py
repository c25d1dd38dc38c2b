"""Energy accounts: operations times picojoules, by named profiles (`configs/energy/`), beside what integers would take.

    spiking     accumulations, membranes, encoder, rotation, what stays in float
    integers    the same products as dense integers of the same widths; the same, skipping inputs that are zero
    float       the float model

All compute the same function on the same counts: integers encode and rotate their inputs as spikes do. Break-even is
the number of spikes per input at which spiking and integers that skip zeros cost the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from spikeconv.config import FLOAT_BITS, Options
from spikeconv.report.operations import kappa

if TYPE_CHECKING:  # a profile is checked before torch is imported
    from spikeconv.report.work import Work

__all__ = ["USUAL", "Account", "EnergyLine", "EnergyProfile", "account"]

USUAL = ("horowitz45", "lemaire45", "sdllm45")
"""What energies are computed by where nobody names a profile: operations, memory included, and the paper's own."""


class EnergyProfile(Options):
    """Picojoules; what a profile does not name costs nothing in it.

    Attributes:
        source: where the numbers are from.
        node: the technology.
        weighted: whether integer operations count by bit cells, as in SDLLM: κ of a float one.
        float_mac, float_add: of float operations.
        integer_mac: of integer multiply-accumulates, by the width that the wider side needs.
        accumulate: of adding a weight to a neuron.
        add, shift: of a neuron's own operations.
        encode: of making a count.
        weight_byte, input_byte, state_byte: of reading a weight or an input, and of reading or writing a potential.
        event: of delivering one spike.
    """

    source: str
    node: str
    weighted: bool = False
    float_mac: float = Field(ge=0)
    float_add: float = Field(0.0, ge=0)
    integer_mac: dict[Annotated[int, Field(gt=0)], Annotated[float, Field(ge=0)]] = Field(min_length=1)
    accumulate: float = Field(ge=0)
    add: float = Field(0.0, ge=0)
    shift: float = Field(0.0, ge=0)
    encode: float = Field(0.0, ge=0)
    weight_byte: float = Field(0.0, ge=0)
    input_byte: float = Field(0.0, ge=0)
    state_byte: float = Field(0.0, ge=0)
    event: float = Field(0.0, ge=0)

    def integer(self, weight_bits: int, count_bits: int) -> float:
        """Of one integer product with its addition, of these widths; a float one where a side is float."""
        if FLOAT_BITS in (weight_bits, count_bits):
            return self.float_mac
        if self.weighted:
            return self.float_mac * kappa(weight_bits, count_bits)
        needed = max(weight_bits, count_bits)
        width = min((width for width in self.integer_mac if width >= needed), default=max(self.integer_mac))
        return self.integer_mac[width]

    def spike(self, weight_bits: int, cells: int) -> float:
        """Of adding one weight for one spike; a float one where the weight is float and that is known."""
        if weight_bits == FLOAT_BITS and self.float_add:
            return self.float_add
        return self.accumulate * (kappa(weight_bits, cells) if self.weighted else 1.0)


STATE_BYTES = 8
"""A potential of 32 bits is read and written."""


@dataclass(frozen=True)
class EnergyLine:
    """Picojoules of a part.

    Attributes:
        part: its name.
        float_model: of the float model.
        integers: dense integers of the same widths; the float model's where nothing is integer.
        sparse_integers: the same skipping zeros; None where their share is not known.
        spiking: with spikes; what cannot spike costs what it does in float.
        terms: `spiking` by what it is for.
        per_spike: picojoules of `spiking` for each spike per input, and `fixed` ones: spiking = spikes · per + fixed.
        fixed: see there.
    """

    part: str
    float_model: float
    integers: float
    sparse_integers: float | None
    spiking: float
    terms: dict[str, float]
    per_spike: float
    fixed: float


@dataclass(frozen=True)
class Account:
    """A whole model by one profile; `break_even` is in spikes per input, as `spikes_per_input` is, None if unknown."""

    lines: tuple[EnergyLine, ...]
    total: EnergyLine
    spikes_per_input: float
    break_even: float | None

    @property
    def wins(self) -> bool | None:
        """Whether spikes cost less than integers that skip zeros."""
        sparse = self.total.sparse_integers
        return None if sparse is None else self.total.spiking < sparse


def account(works: "Iterable[Work]", profile: EnergyProfile) -> Account:
    """The energy of some work by a profile."""
    works = list(works)
    lines = tuple(_line(work, profile) for work in works)
    names = dict.fromkeys(term for line in lines for term in line.terms)
    sparse = [line.sparse_integers for line in lines]
    total = EnergyLine(
        "total",
        sum(line.float_model for line in lines),
        sum(line.integers for line in lines),
        None if None in sparse else sum(value for value in sparse if value is not None),
        sum(line.spiking for line in lines),
        {name: sum(line.terms.get(name, 0.0) for line in lines) for name in names},
        sum(line.per_spike for line in lines),
        sum(line.fixed for line in lines),
    )
    macs = sum(work.macs for work in works if work.is_spiking)
    spikes = sum(work.accumulations for work in works) / macs if macs else 0.0
    even = None
    if total.sparse_integers is not None and total.per_spike > 0:
        even = (total.sparse_integers - total.fixed) / total.per_spike
    return Account(lines, total, spikes, even)


def _line(work: "Work", profile: EnergyProfile) -> EnergyLine:
    floats = work.macs * profile.float_mac
    if not work.is_spiking and work.count_bits == FLOAT_BITS:
        return EnergyLine(work.part, floats, floats, floats, floats, {"float": floats}, 0.0, floats)
    before = {"encoder": work.encoded * profile.encode, "rotation": work.rotation_additions * profile.float_add}
    both, moved = sum(before.values()), profile.weight_byte * work.weight_bits / 8
    each = profile.integer(work.weight_bits, work.count_bits) + moved + profile.input_byte * work.count_bits / 8
    integers = work.macs * each + both
    sparse = None if work.nonzero_macs is None else work.nonzero_macs * each + both
    if not work.is_spiking:  # counts sent whole
        terms = {"integers": work.macs * each, **before}
        return EnergyLine(work.part, floats, integers, sparse, integers, terms, 0.0, integers)
    terms = {
        "accumulations": work.accumulations * profile.spike(work.weight_bits, work.spike_cells),
        "memory": work.accumulations * (moved + STATE_BYTES * profile.state_byte),
        "events": work.spikes * profile.event,
    }
    by_spikes = sum(terms.values())
    membranes = work.membrane_additions * profile.add + work.membrane_shifts * profile.shift
    terms |= {"membranes": membranes, **before}
    spikes = work.accumulations / work.macs if work.macs else 0.0
    per_spike = by_spikes / spikes if spikes else 0.0
    fixed = membranes + both
    return EnergyLine(work.part, floats, integers, sparse, by_spikes + fixed, terms, per_spike, fixed)
