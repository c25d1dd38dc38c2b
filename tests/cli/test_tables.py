"""Tables on any terminal: numbers whole, words whole, nothing missing."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from spikeconv.cli import console
from spikeconv.cli.console import Printer
from spikeconv.cli.tables import Rows, broken, laid_out

PAPERS = ("spikerwkv", "spikegpt", "spikelm")
WIDTHS = (20, 40, 80, 100, 120, 10_000)
NUMBERS = ("0", "-123,456,789.0123", "1.2e-300", "99.99 ± 12.34", "123456.7 M", "100.0%", "n/a", "–", "9" * 30)
TEXT = (
    "q",
    "model.layers.31.self_attn.q_proj",
    "llama3.1-8b gate|up 4096→28672",
    "ramp code of 24 slots",
    "番号 字",
    "",
)
HEADINGS = ("µs", "additions/token", "zero counts", "int8 mm", "piqa\nacc_norm", "mean |count|", "× float")


def printed(rows: Rows, width: int | None) -> list[str]:
    screen = Console(width=width or 100_000, color_system=None, emoji=False, markup=False, highlight=False)
    with screen.capture() as capture:
        for part in laid_out(rows, width):
            screen.print(part, soft_wrap=True)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_any_table_in_any_width() -> None:
    draw = random.Random(0)
    shapes = set()
    for _ in range(150):
        count = draw.randint(1, 12)
        headings = [f"{draw.choice(HEADINGS)} {index}" for index in range(count)]
        text = {headings[0], *draw.sample(headings, draw.randint(0, count) // 2)}
        rows = Rows("", tuple(headings), text)
        for _ in range(draw.randint(1, 3)):
            rows.add_row(*(draw.choice(TEXT if heading in text else NUMBERS) for heading in headings))
        for width in (*WIDTHS, None):
            lines = printed(rows, width)
            words = [word.removesuffix(":") for line in lines for word in line.split()]
            for row in rows.cells:
                for heading, cell in zip(headings, row, strict=True):
                    assert {*cell.split()} <= {*words}
                    if heading not in text:
                        assert any(re.search(rf"(^|\s){re.escape(cell)}(\s|$)", line) for line in lines)
            if rows.widths(width) is not None:
                shapes.add("table")
                assert width is None or max(map(cell_len, lines)) <= width
            else:  # a line is only longer than the terminal where it holds one value
                shapes.add("blocks")
                assert all(cell_len(line) <= width or " · " not in line for line in lines if width is not None)
    assert shapes == {"table", "blocks"}


def test_tables_of_commands(
    spikeconv: Callable[..., Any], converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a wide terminal shows, a narrow one shows too; and all tables are made in the house style."""
    shown: list[Rows] = []
    monkeypatch.setattr(Printer, "show", lambda printer, rows: shown.append(rows))
    checkpoint = converted("llama")
    for command in (
        ("models",),
        ("plan", "mistral-7b", "--kv-bits", "4"),
        *(("report-firing-rate", checkpoint, "--tokens", 8, "--firing", 3, "--energy", paper) for paper in PAPERS),
        ("report-energy", checkpoint, "--tokens", 8, "--parts"),
    ):
        assert spikeconv(*command, "-q").code == 0
    assert len(shown) > 15
    for rows in shown:
        words = {word for row in (*rows.cells, rows.columns[1:]) for cell in row for word in cell.split()}
        for width in WIDTHS:
            lines = printed(rows, width)
            assert words <= {word.removesuffix(":") for line in lines for word in line.split()}
            assert max(map(cell_len, lines)) <= max(width, 60), rows.title
    for path in Path(console.__file__).parent.glob("*.py"):
        assert path.name in ("tables.py", "console.py") or "rich.table" not in path.read_text(encoding="utf-8")


def test_sentences_end_their_lines_between_words() -> None:
    draw = random.Random(0)
    for _ in range(300):
        words = ("a", "longer", "/a/very/long/path/of/one/word", "  two", "\nnext", "番号")
        sentence = Text(" ".join(draw.choice(words) for _ in range(12)))
        sentence.stylize("bold", 3, 9)
        lines = broken(sentence, 20).plain.split("\n")
        assert " ".join(lines).split() == sentence.plain.split()
        assert all(cell_len(line) <= 20 or " " not in line.strip() for line in lines)
