"""Tables that fit where they are printed: numbers are never cut or wrapped, words never broken, nothing is left out.

Headings and text wrap at spaces. Where even so a table is too wide, each row is printed as a block of its own.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

__all__ = ["Rows", "broken", "laid_out"]

GAP = 2
"""Spaces between columns."""
INDENT, BETWEEN = "  ", " · "
"""Of the lines of a block, and between what stands in one."""


@dataclass
class Rows:
    """A table's content.

    Attributes:
        title: printed above it.
        columns: headings; a line break in one is a space where there is no room.
        text: those that hold text, which may wrap at spaces; all others hold numbers.
        cells: row by row.
        styles: of the rows.
    """

    title: str
    columns: tuple[str, ...]
    text: Collection[str] = ()
    cells: list[tuple[str, ...]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add_row(self, *cells: str, style: str | None = None) -> None:
        """One row, a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in {len(self.columns)} columns of {self.title!r}")
        self.cells.append(cells)
        self.styles.append(style or "")

    def widths(self, width: int | None) -> list[int] | None:
        """Columns of characters that each column gets of `width` (None: no limit); None if they do not suffice."""
        least, most = zip(*(self._range(index) for index in range(len(self.columns))), strict=True)
        spare = sum(most) if width is None else width - sum(least) - GAP * (len(least) - 1)
        if spare < 0:
            return None
        wish = sum(most) - sum(least)
        if spare >= wish:
            return list(most)
        return [low + spare * (high - low) // wish for low, high in zip(least, most, strict=True)]

    def _range(self, index: int) -> tuple[int, int]:
        """The least and the most characters that a column can use."""
        heading, cells = self.columns[index], [row[index] for row in self.cells]
        whole = max((_longest(cell.splitlines()) for cell in cells), default=0)
        least = _longest(word for cell in cells for word in cell.split()) if heading in self.text else whole
        return max(least, _longest(heading.split())), max(whole, _longest(heading.splitlines()))


def laid_out(rows: Rows, width: int | None) -> Iterator[Table | Text]:
    """What to print, one below the other, in lines of `width` characters; None: of any length."""
    if rows.title:
        title = Text(rows.title, "title")
        yield title if width is None else broken(title, width)
    widths = rows.widths(width)
    if widths is None and width is not None:
        for row, style in zip(rows.cells, rows.styles, strict=True):
            yield from (Text(line, style) for line in _block(rows, row, width))
        return
    result = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for index, (heading, size) in enumerate(zip(rows.columns, widths or (), strict=True)):
        is_text = index == 0 or heading in rows.text
        result.add_column(Text(_wrapped(heading, size)), justify="left" if is_text else "right", width=size)
    for row, style in zip(rows.cells, rows.styles, strict=True):
        cells = (_wrapped(cell, size) for cell, size in zip(row, widths or (), strict=True))
        result.add_row(*map(Text, cells), style=style)
    yield result


def broken(text: Text, width: int) -> Text:
    """A text in lines that end between words, and are longer only where one word is."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        begin, cuts = 0, []
        for word in re.finditer(r"\S+", line.plain):
            is_first = not line.plain[begin : word.start()].strip()
            if not is_first and cell_len(line.plain[begin : word.end()]) > width:
                begin = word.start()
                cuts.append(begin)
        lines += line.divide(cuts)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _block(rows: Rows, row: Sequence[str], width: int) -> Iterator[str]:
    """One row: what it is of, then `heading: value` for every other cell that holds something."""
    yield row[0] or rows.columns[0]
    width -= len(INDENT)
    pairs: list[str] = []
    for heading, cell in zip(rows.columns[1:], row[1:], strict=True):
        pair = f"{' '.join(heading.split())}: {cell}"
        if cell:
            pairs += _joined(pair.split(), " ", width) if heading in rows.text else [pair]
    for line in _joined(pairs, BETWEEN, width):
        yield f"{INDENT}{line}"


def _wrapped(cell: str, width: int) -> str:
    """Text in lines that end between words."""
    if cell_len(cell) <= width:
        return cell
    return "\n".join(line for part in cell.splitlines() for line in _joined(part.split(), " ", width))


def _joined(parts: Iterable[str], between: str, width: int) -> Iterator[str]:
    """Lines of as many parts as go into a width, and at least one."""
    line = ""
    for part in parts:
        longer = f"{line}{between}{part}" if line else part
        if line and cell_len(longer) > width:
            yield line
            longer = part
        line = longer
    if line:
        yield line


def _longest(parts: Iterable[str]) -> int:
    return max(map(cell_len, parts), default=0)
