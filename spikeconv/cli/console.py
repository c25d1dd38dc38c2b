"""The console of every command: results on stdout, everything else on stderr in one theme."""

import json
import sys
import time
from collections.abc import Iterable, Sized
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.theme import Theme

from spikeconv.progress import Track, silent

__all__ = ["err", "out", "print_json", "table", "tracker"]

T = TypeVar("T")

THEME = Theme({"title": "bold cyan", "good": "green", "bad": "bold red", "note": "dim", "number": "bold"})
FILE_WIDTH = 160
"""Characters of a table line where there is no terminal to fit."""

out = Console(theme=THEME, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else FILE_WIDTH)
err = Console(theme=THEME, highlight=False, stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object on stdout, nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(title: str, *columns: str) -> Table:
    """A table in the house style: the first column is text, the others are numbers."""
    result = Table(title=title, title_style="title", title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right")
    return result


def tracker(quiet: bool = False) -> Track:
    """A progress bar with ETA on a terminal, a plain line every ten seconds elsewhere, nothing when quiet."""
    if quiet:
        return silent
    return _bar if err.is_terminal else _lines


def _bar(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            err.print(f"{description}: {done}/{total}" if total else f"{description}: {done}")
        yield item
