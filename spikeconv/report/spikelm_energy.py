"""SpikeLM's table 5, by its formulas: a dense model against one driven by spikes (compute only).

    E_ANN = MACs · E_MAC        E_SNN = MACs · T · r · E_AC        MACs: linears, QK^T and PV of one sentence

The printed energies do not come with rates: those are what the formula makes of them. The printed fp16 energy of BERT
is a tenth less than its own constants give.
"""

from typing import NamedTuple

from pydantic import Field

from spikeconv.config import Options
from spikeconv.report.firing_rate import FiringReport

__all__ = ["SpikeLmProfile", "TableRow", "table_five", "this_model"]

MILLI = 1e-9
"""Millijoules of a picojoule."""


class Precision(Options):
    """Picojoules of a multiply-accumulate and of an accumulate."""

    mac_pj: float = Field(gt=0)
    ac_pj: float = Field(gt=0)


class Printed(Options):
    """A row of the paper's tables, in millijoules."""

    name: str
    time_steps: int = Field(gt=0)
    fp32: float = Field(gt=0)
    fp16: float | None = Field(None, gt=0)


class Dense(Options):
    """The energies of BERT as printed, in millijoules."""

    fp32: float = Field(gt=0)
    fp16: float = Field(gt=0)


class SpikeLmProfile(Options):
    """The constants of the table, and its sentence and model."""

    fp32: Precision
    fp16: Precision
    tokens: int = Field(gt=0)
    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    dense: Dense
    printed: tuple[Printed, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the linears, QK^T and PV."""
        linears = self.tokens * (4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size)
        return self.layers * (linears + 2 * self.tokens**2 * self.hidden_size)


class TableRow(NamedTuple):
    """One row: printed millijoules (None where there are none), those of the formula, and T · r."""

    name: str
    printed_fp32: float | None
    fp32: float
    printed_fp16: float | None
    fp16: float
    spikes_per_input: float | None


def table_five(profile: SpikeLmProfile) -> list[TableRow]:
    """BERT, and every printed model with the spikes per input that its energy stands for."""
    macs = profile.macs * MILLI
    fp32, fp16 = macs * profile.fp32.mac_pj, macs * profile.fp16.mac_pj
    rows = [TableRow("BERT", profile.dense.fp32, fp32, profile.dense.fp16, fp16, None)]
    for row in profile.printed:
        spikes = row.fp32 / (macs * profile.fp32.ac_pj)
        name = f"{row.name}, T={row.time_steps}"
        rows.append(TableRow(name, row.fp32, row.fp32, row.fp16, macs * spikes * profile.fp16.ac_pj, spikes))
    return rows


def this_model(report: FiringReport, profile: SpikeLmProfile) -> list[TableRow]:
    """A recording by the same formulas: dense, and with the spikes that were counted in front of its linears.

    As in the paper, the products of attention are taken for accumulations at the linears' rate.
    """
    total = report.total
    macs = (total.macs + total.float_macs.get("attention", 0) / report.streams) * MILLI
    spikes = total.spikes_per_input
    return [
        TableRow("dense", None, macs * profile.fp32.mac_pj, None, macs * profile.fp16.mac_pj, None),
        TableRow("spiking", None, macs * spikes * profile.fp32.ac_pj, None, macs * spikes * profile.fp16.ac_pj, spikes),
    ]
