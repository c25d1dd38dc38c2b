"""Rows of a comparison as plain values: what is shown, written as Markdown, CSV or JSON is the same cells."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spikeconv.plain import plain_value

__all__ = ["NOTHING", "Cell", "Row", "Table", "as_csv", "as_markdown", "number"]

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A value, and as it is shown; None is nothing."""

    value: float | int | str | None = None
    text: str = NOTHING


@dataclass(frozen=True)
class Row:
    """One quantity of all columns.

    Attributes:
        section: what it belongs to.
        name, unit: of it.
        cells: of the columns.
        note: number of the note that it needs to be read with; 0: none.
    """

    section: str
    name: str
    unit: str
    cells: tuple[Cell, ...]
    note: int = 0

    @property
    def label(self) -> str:
        """Name, unit and number of its note."""
        return (f"{self.name}, {self.unit}" if self.unit else self.name) + self.mark

    @property
    def mark(self) -> str:
        """The number of its note."""
        return f" ({self.note})" if self.note else ""


@dataclass
class Table:
    """All rows; `notes` say where the columns of a row are not alike, the first is number 1."""

    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, name: str, unit: str, cells: Sequence[Cell], note: int = 0) -> None:
        """Add a row, unless it is empty."""
        if any(cell.value is not None for cell in cells):
            self.rows.append(Row(section, name, unit, tuple(cells), note))

    def note(self, text: str) -> int:
        """The number of a note."""
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [
            {
                "section": row.section,
                "quantity": row.name,
                "unit": row.unit,
                "values": {name: cell.value for name, cell in zip(self.columns, row.cells, strict=True)},
                "note": row.note or None,
            }
            for row in self.rows
        ]
        return {"columns": self.columns, "rows": plain_value(rows), "notes": self.notes}


def as_markdown(table: Table) -> str:
    """A table of GitHub's, and the notes."""
    lines = [_markdown_row(["", *table.columns]), _markdown_row([":--", *("--:" for _ in table.columns)])]
    section = ""
    for row in table.rows:
        if row.section != section:
            section = row.section
            lines.append(_markdown_row([f"**{_plain(section)}**", *("" for _ in table.columns)], escaped=True))
        lines.append(_markdown_row([row.label, *(cell.text for cell in row.cells)]))
    notes = [f"({number}) {_plain(note)}" for number, note in enumerate(table.notes, 1)]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def as_csv(table: Table) -> str:
    """Values as they are, not as they are shown; notes in the last column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["section", "quantity", "unit", *table.columns, "note"])
    for row in table.rows:
        values = ["" if cell.value is None else cell.value for cell in row.cells]
        note = table.notes[row.note - 1] if row.note else ""
        writer.writerow([row.section, row.name, row.unit, *values, note])
    return stream.getvalue()


def number(value: float | None, digits: int = 3) -> Cell:
    """A number with so many significant digits, and no more digits than there are before the point."""
    if value is None:
        return Cell()
    if isinstance(value, int):
        return Cell(value, f"{value:,}")
    if value == 0 or not 1e-4 <= abs(value) < 10**15:
        return Cell(value, f"{value:.{digits}g}")
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    first = next(place for place in range(1, 6) if abs(value) >= 10**-place) - 1 if abs(value) < 1 else 0
    return Cell(value, f"{value:,.{max(0, digits - before + first)}f}")


def _markdown_row(cells: Sequence[str], escaped: bool = False) -> str:
    return "| " + " | ".join(cells if escaped else map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text in which nothing means something to Markdown, on one line."""
    for sign in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
