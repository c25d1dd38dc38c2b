"""The tables of a page, each also a CSV file."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from spikeconv.pages.words import count, joules, number, share
from spikeconv.report.model import ModelReport
from spikeconv.report.places import Grid

__all__ = [
    "Cell",
    "Table",
    "Value",
    "comparison_table",
    "csv_text",
    "energy_table",
    "inputs_table",
    "joined",
    "model_files",
    "neurobench_table",
    "neurons_table",
    "operations_table",
]

Value = str | float | int | None


@dataclass(frozen=True)
class Cell:
    """A value, and how it is shown; sorted by the value."""

    value: Value
    text: str

    @property
    def is_number(self) -> bool:
        """Whether it is aligned as one."""
        return not isinstance(self.value, str)


@dataclass(frozen=True)
class Table:
    """Rows of cells under names of columns; `name` is that of the file, without `.csv`."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def is_text(self, column: int) -> bool:
        """Whether a column holds words."""
        return bool(self.rows) and not self.rows[0][column].is_number

    @classmethod
    def plain(cls, name: str, columns: tuple[str, ...], rows: Sequence[Sequence[Value]]) -> "Table":
        """A table of bare values."""
        return cls(name, name, columns, tuple(tuple(map(_cell, row)) for row in rows))


def _cell(value: Value, form: Callable[[float], str] = number) -> Cell:
    if isinstance(value, str):
        return Cell(value, value)
    return Cell(value, "–" if value is None else form(value))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def inputs_table(report: ModelReport) -> Table:
    """One row for each encoder."""
    columns = ("input of", "role", "width", "code", "slots", "mean |count|", "spikes of an input", "firing rate")
    rows = []
    for each in report.inputs:
        record = each.record
        row = (
            _cell(each.name),
            _cell(each.roles),
            _cell(record.in_features, _whole),
            _cell(record.code.name),
            _cell(record.virtual_steps, _whole),
            _cell(record.mean_count),
            _cell(record.spikes_per_input if each.sends_spikes else None),
            _cell(record.firing_rate),
            _cell(record.zero_share, share),
            _cell(record.spikes / record.tokens if each.sends_spikes else None, _whole),
        )
        rows.append(row)
    return Table("inputs", "Every encoder", (*columns, "zero counts", "spikes of a token"), tuple(rows))


def operations_table(report: ModelReport) -> Table:
    """One row for each part of the model."""
    columns = (
        "part",
        "multiply-accumulates",
        "additions for spikes",
        "for each MAC",
        "non-zero",
        "membrane operations",
    )
    rows = []
    for work in report.works:
        sent = work.accumulations if work.is_spiking else None
        row = (
            _cell(work.part),
            _cell(work.macs, count),
            _cell(sent, count),
            _cell(None if sent is None or not work.macs else sent / work.macs),
            _cell(None if work.nonzero_macs is None or not work.macs else work.nonzero_macs / work.macs, share),
            _cell(work.membrane_additions + work.membrane_shifts, count),
            _cell(work.encoded, count),
            _cell(work.rotation_additions, count),
        )
        rows.append(row)
    return Table(
        "operations", "Operations of the text", (*columns, "inputs encoded", "rotation additions"), tuple(rows)
    )


def energy_table(report: ModelReport, profile: str) -> Table:
    """One row for each part, and the total: joules of one token."""
    account, tokens = report.energy[profile].whole, report.totals.tokens
    rows = []
    for line in (*account.lines, account.total):
        values = line.float_model, line.integers, line.sparse_integers, line.spiking
        cells = (_cell(None if value is None else value / tokens, joules) for value in values)
        rows.append((_cell(line.part), *cells))
    columns = ("part", "float model", "integers", "integers without zeros", "spikes")
    return Table("energy", f"Energy of one token by {profile}", columns, tuple(rows))


def neurobench_table(report: ModelReport) -> Table:
    """NeuroBench's metrics by their names there."""
    rows = []
    for name, value in report.neurobench.items():
        if isinstance(value, dict) and name == "SynapticOperations":
            rows += [(_cell(f"{name}: {kind}"), _cell(number_, count)) for kind, number_ in value.items()]
        elif not isinstance(value, dict):
            rows.append((_cell(name), _cell(value, count)))
    return Table("neurobench", "NeuroBench's metrics, of one token", ("metric", "value"), tuple(rows))


def neurons_table(report: ModelReport) -> Table:
    """The neurons that are part of the model itself, place by place."""
    rows = tuple((_cell(name), _cell(rate)) for name, rate in report.firing.neurons.items())
    return Table("neurons", "The model's own neurons", ("place", "firing rate"), rows)


def comparison_table(reports: Sequence[tuple[str, ModelReport]]) -> Table:
    """One row for each model, by name."""
    rows = []
    for name, report in reports:
        totals = report.totals
        row = [
            _cell(name),
            _cell(totals.spikes_per_input),
            _cell(totals.firing_rate),
            _cell(totals.slots, _whole),
            _cell(totals.zero_share, share),
            _cell(totals.additions_per_mac),
            _cell(None if totals.spikes is None else totals.spikes / totals.tokens, count),
        ]
        for priced in report.energy.values():
            sparse = priced.whole.total.sparse_integers
            row.append(_cell(priced.whole.total.spiking / sparse if sparse else None))
        rows.append(tuple(row))
    columns = ("checkpoint", "spikes of an input", "firing rate", "slots", "zero counts", "additions for a MAC")
    ratios = [f"energy ÷ integers without zeros, {profile}" for profile in reports[0][1].energy]
    return Table("totals", "Totals", (*columns, "spikes of a token", *ratios), tuple(rows))


def joined(tables: Iterable[tuple[str, Table]], column: str = "checkpoint") -> Table:
    """One table of several that are alike, with a first column that tells them apart."""
    pairs = list(tables)
    first = pairs[0][1]
    rows = tuple((_cell(name), *row) for name, table in pairs for row in table.rows)
    return replace(first, columns=(column, *first.columns), rows=rows)


def csv_text(table: Table) -> str:
    """A table as CSV: bare values, nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if cell.value is None else _harmless(cell.value) for cell in row] for row in table.rows])
    return text.getvalue()


def _harmless(value: Value) -> Value:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def model_files(report: ModelReport) -> list[Table]:
    """What CSV files hold of one model: the tables of the page, and the numbers behind its pictures."""
    files = [inputs_table(report), operations_table(report), neurobench_table(report), neurons_table(report)]
    priced = [(profile, energy_table(report, profile)) for profile in report.energy]
    if priced:
        energy = joined(priced, "profile")
        units = (f"{name} (pJ of a token)" for name in energy.columns[2:])
        files.append(replace(energy, columns=(*energy.columns[:2], *units)))
    for name, grid in (("rates", report.rates), ("positions", report.positions)):
        files += [] if grid is None else [_grid_table(name, grid)]
    own = [
        (roles, value, shares, found.gaussian.get(value))
        for roles, found in report.counts.items()
        for value, shares in found.shares.items()
    ]
    files.append(Table.plain("counts", ("role", "count", "share", "gaussian"), own))
    other = [
        (each.roles, kind, value, share_)
        for each in report.encoders
        for kind, found in each.encoders.items()
        for value, share_ in found.shares.items()
    ]
    files.append(Table.plain("encoders", ("role", "encoder", "count", "share"), other))
    seen = [
        (each.roles, low, high, share_)
        for each in report.encoders
        for low, high, share_ in zip(
            each.potentials.edges, each.potentials.edges[1:], each.potentials.shares, strict=False
        )
    ]
    files.append(Table.plain("potentials", ("role", "from", "to", "share"), seen))
    slots = [(code.code, slot, sent) for code in report.codes for slot, sent in enumerate(code.slots, 1)]
    files.append(Table.plain("slots", ("code", "slot", "spikes of an input"), slots))
    bursts = [(code.code, size, sent) for code in report.codes for size, sent in code.bursts.items()]
    files.append(Table.plain("bursts", ("code", "spikes at once", "share of inputs"), bursts))
    return [table for table in files if table.rows]


def _grid_table(name: str, grid: Grid) -> Table:
    rows = [
        (row, column, value)
        for row, values in zip(grid.rows, grid.values, strict=True)
        for column, value in zip(grid.columns, values, strict=True)
    ]
    return Table.plain(name, ("layer", "position" if name == "positions" else "role", grid.what), rows)
