"""What is printed is what was meant: values are no markup, and no stream is too poor for them."""

import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import spikeconv.cli
from spikeconv.cli.console import err, out, print_json, table

COMMANDS = Path(spikeconv.cli.__file__).parent
Run = Callable[..., Any]


def test_values_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)
    values = ["".join(draw.choices("[]/\\ab#@:é", k=draw.randint(0, 9))) for _ in range(2000)]
    for value in values:
        out.print("[note]{value}[/] and [number]{value:>12}[/]!", value=value)
    expected = "".join(f"{value} and {value:>12}!\n" for value in values)
    assert capsys.readouterr().out == expected


def test_tables_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("a [red] title", "[b]", "[/]")
    rows.add_row("[bold]x[/]", ":smile: [/x]")
    err.show(rows)
    printed = capsys.readouterr().err
    for text in ("a [red] title", "[b]", "[/]", "[bold]x[/]", ":smile: [/x]"):
        assert text in printed


def test_templates_are_constants() -> None:
    """An f-string (or any other expression) as a template would be read as markup."""
    found = 0
    for path in COMMANDS.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "print"):
                continue
            if not (isinstance(call.func.value, ast.Name) and call.func.value.id in ("out", "err")):
                continue
            template = call.args[0]
            choices = [template.body, template.orelse] if isinstance(template, ast.IfExp) else [template]
            assert all(isinstance(choice, ast.Constant) for choice in choices), f"{path.name}:{call.lineno}"
            found += 1
    assert found > 20


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x"}


def started(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell command in which `spikeconv` is ours."""
    script = f'spikeconv() {{ "{sys.executable}" -m spikeconv "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, env={**os.environ, **environment}, check=False)


def test_poor_streams(converted: Callable[..., Path]) -> None:
    """ASCII, a legacy locale, closed descriptors, a reader that leaves, 40 columns: no traceback, and no surprise."""
    ascii_only = started("spikeconv report-firing-rate $MODEL -q --tokens 16", MODEL=str(converted("llama")),
                         PYTHONIOENCODING="ascii")  # fmt: skip
    assert ascii_only.returncode == 0 and b"mean |count|" in ascii_only.stdout

    legacy = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for command, environment in (
        ("spikeconv models", legacy),
        ("spikeconv convert --help", legacy),
        ("spikeconv models >&-", {}),
        ("spikeconv models --json >&-", {}),
        ("spikeconv models 2>&-", {}),
        ("spikeconv models <&- >&- 2>&-", {}),
        ("spikeconv models", {"COLUMNS": "40", "NO_COLOR": "1"}),
    ):
        result = started(command, **environment)
        assert (result.returncode, result.stderr) == (0, b""), command

    for command, code in (("spikeconv models", 141), ("spikeconv models --json", 141), ("spikeconv --help", 1)):
        result = started(f"{command} | true; exit ${{PIPESTATUS[0]}}")  # the help is written by typer
        assert (result.returncode, result.stderr) == (code, b""), command

    full = started("spikeconv models --json > /dev/full")
    assert full.returncode == 2 and full.stderr.startswith(b"error: No space left") and full.stderr.count(b"\n") == 1


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A path with a byte that is not UTF-8 is printed byte for byte."""
    result = started("spikeconv verify $'/nowhere/\\xff' -q")
    assert result.returncode == 2 and b"/nowhere/\xff is" in result.stderr
