"""`spikeconv frontier` on a tiny model, as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import spikeconv.frontier.measure as measure

Run = Callable[..., Any]
GRID = """
- {label: SDLLM, mark: paper, scheme: sdllm-4-1.58}
- {label: ramp, mark: ours, settings: {bits: 6-1.58, temporal_code: ramp, slots: 8}}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid in a file; the texts are short and need no network."""
    texts = {"docs": "It was the best of times. " * 8, "boolq": "Call me Ishmael. " * 12}
    monkeypatch.setattr(measure, "measured_texts", lambda: texts)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID, encoding="utf-8")
    return path


def test_table_files_and_a_second_run_from_them(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, grid: Path
) -> None:
    arguments = ("frontier", tiny_checkpoint("llama"), "--grid", grid, "-o", tmp_path / "out", "--device", "cpu")
    first = spikeconv(*arguments)
    assert first.code == 0
    assert all(word in first.out for word in ("SDLLM", "ramp", "float", "spikes/input", "frontier.svg"))
    assert "ramp (3 of 3)" in first.err
    second = spikeconv(*arguments, "--json", "--quiet")
    assert second.err == ""
    stored = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert second.json == stored
    assert [point["label"] for point in stored["points"]] == ["float", "SDLLM", "ramp"]
    assert stored["points"][0]["worst_ratio"] == 1 and any(point["pareto"] for point in stored["points"])
    table = (tmp_path / "out" / "frontier.csv").read_text().splitlines()
    assert len(table) == 4 and table[0].split(",") == list(stored["points"][0])
    ElementTree.parse(tmp_path / "out" / "frontier.svg")
    chosen = spikeconv(*arguments, "--points", "ramp", "--json")
    assert [point["label"] for point in chosen.json["points"]] == ["float", "ramp"]
    assert chosen.err.count("measured before") == 2


def test_bad_input_is_one_sentence(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path, grid: Path
) -> None:
    source, out = tiny_checkpoint("llama"), tmp_path / "out"
    broken, unknown, other = tmp_path / "broken.yaml", tmp_path / "unknown.yaml", tmp_path / "other"
    broken.write_text("label: a")
    unknown.write_text("- {label: a, mark: ours, settings: {bitz: 4}}")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for arguments, words in (
        ([source, "--points", "rampe"], "Did you mean ramp?"),
        ([source, "--grid", broken], "a list of points was expected"),
        ([source, "--grid", unknown], "bitz is no setting"),
        ([source, "--grid", tmp_path / "none"], "cannot be read"),
        ([source, "-o", other], "thesis.txt"),
        ([source, "-o", grid], "is a file"),
        ([converted("llama")], "is already converted"),
        ([tmp_path / "no-model"], "no preset"),
        ([source, "--dtype", "float8"], "float8"),
        ([source, "--windows", "0"], "windows"),
    ):
        result = spikeconv("frontier", "--grid", grid, "-o", out, "--quiet", *arguments)
        assert result.code == 2 and words in result.err and "Traceback" not in result.err, (arguments, result)
        assert result.out == "" and not out.exists()
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
