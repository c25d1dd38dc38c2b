"""The console of every command: results on stdout, everything else on stderr in one theme.

A message is a template in rich's markup with its values as fields: `err.print("[note]from {path}[/]", path=path)`;
markup is read from the template alone, so that a path with [brackets] stays what it is.
"""

import json
import string
import time
from collections.abc import Collection, Iterable, Sized
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from spikeconv.cli.streams import is_terminal
from spikeconv.cli.tables import Rows, broken, laid_out
from spikeconv.plain import plain_value
from spikeconv.progress import Track, silent

__all__ = ["Printer", "err", "out", "print_json", "table", "tracker"]

T = TypeVar("T")

THEME = Theme({"title": "bold cyan", "good": "green", "bad": "bold red", "note": "dim", "number": "bold"})
FILE_WIDTH = 160
"""Characters of a table line where there is no terminal to fit."""
LONGEST = 1 << 16
"""Characters of a line of a table, whose columns know their own widths."""
PLACE = "\ue000"
"""Stands for a field while markup is parsed; no template holds this private character."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # called by an exception handler; rich would exit with 1


class Printer:
    """Prints messages and tables on stdout or stderr.

    Attributes:
        is_muted: whether it keeps silent, as where another process of several speaks.
    """

    def __init__(self, *, stderr: bool) -> None:
        self._stderr = stderr
        self.is_muted = False
        self.console = self._new_console()

    def print(self, template: str, /, **fields: object) -> None:
        """A line.

        Args:
            template: rich markup with `{field}`s as of `str.format`; a constant of the program.
            fields: values, printed as they are.
        """
        self._write(_fill(template, fields))

    def show(self, rows: Rows) -> None:
        """A table; in a file its lines are as long as they must be."""
        width: int | None = FILE_WIDTH
        if self._on_terminal:
            width = self.console.width
        elif rows.widths(FILE_WIDTH) is None:
            width = None
        for part in laid_out(rows, width):
            self._write(part)

    def _write(self, content: Text | Table) -> None:
        if self.is_muted:
            return
        try:
            if isinstance(content, Table):
                self.console.print(content, width=LONGEST, crop=False)
            else:  # a file has lines as they are
                self.console.print(broken(content, self.console.width) if self._on_terminal else content)
        except OSError:
            self.console = self._new_console()  # without what could not be written
            if not self._stderr:  # nobody may hear what is said beside the results; the work goes on all the same
                raise

    @property
    def _on_terminal(self) -> bool:
        return is_terminal("stderr" if self._stderr else "stdout")

    def _new_console(self) -> Console:
        width = None if self._stderr or self._on_terminal else FILE_WIDTH
        # Without markup by itself: table cells and titles are shown as they are.
        return _Console(
            theme=THEME, highlight=False, soft_wrap=True, markup=False, emoji=False, stderr=self._stderr, width=width
        )


def _fill(template: str, fields: dict[str, object]) -> Text:
    # Markup is parsed with one character in the place of each field: rich's own `escape` is not sound ("[" + "\\").
    formatter, markup, values = string.Formatter(), "", []
    for literal, name, form, conversion in formatter.parse(template):
        markup += literal
        if name is not None:
            value = formatter.convert_field(formatter.get_field(name, (), fields)[0], conversion)
            values.append(str(formatter.format_field(value, form or "")))
            markup += PLACE
    pieces = Text.from_markup(markup, emoji=False)
    places = [i for i, character in enumerate(pieces.plain) if character == PLACE]
    result, left = Text(), iter(values)
    for piece in pieces.divide([cut for i in places for cut in (i, i + 1)]):
        if piece.plain == PLACE:
            styles = [span.style for span in piece.spans]
            piece = Text(next(left))
            for style in styles:
                piece.stylize(style)
        result.append_text(piece)
    return result


out = Printer(stderr=False)
err = Printer(stderr=True)


def print_json(value: Any) -> None:
    """One JSON object on stdout, nothing else; NaN and infinity, which JSON has not, are null."""
    if not out.is_muted:
        print(json.dumps(plain_value(value), indent=2, allow_nan=False))


def table(title: str, *columns: str, text: Collection[str] = ()) -> Rows:
    """A table in the house style: the first column and those of `text` are text, the others are numbers."""
    return Rows(title, columns, {columns[0], *text})


def tracker(quiet: bool = False) -> Track:
    """A progress bar with ETA on a terminal, a plain line every ten seconds elsewhere, nothing when quiet."""
    if quiet or err.is_muted:
        return silent
    return _bar if err.console.is_terminal else _lines


def _bar(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err.console, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            err.print("{what}: {done}{of}", what=description, done=done, of=f"/{total}" if total else "")
        yield item
