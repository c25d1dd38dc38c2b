"""`compare`: its numbers are those of the reports, in every format, and what is not alike is said."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fixture = Callable[..., Any]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("some words and some more of them, and others | again " * 12, encoding="utf-8")
    return path


@pytest.fixture
def checkpoints(converted: Fixture, tmp_path: Path) -> list[Path]:
    """Copies: results are written beside them."""
    found = []
    for name, settings in (("sdllm", {"bits": "4-1.58"}), ("ints", {"bits": "4-4", "kv_bits": 4})):
        shutil.copytree(converted("llama", **settings), tmp_path / name)
        found.append(tmp_path / name)
    return found


def values(found: Any, name: str) -> dict[str, Any]:
    row = next(row for row in found["rows"] if row["quantity"].strip().startswith(name))
    result: dict[str, Any] = row["values"]
    return result


def test_numbers_are_those_of_the_reports(
    spikeconv: Fixture,
    tiny_checkpoint: Fixture,
    checkpoints: list[Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, sdllm = tiny_checkpoint("llama"), checkpoints[0]
    how = ("--text", text, "--tokens", 96, "--window", 32, "--measure", "spikes,perplexity", "-q")
    for suffix in ("csv", "md"):
        written = tmp_path / f"table.{suffix}"
        result = spikeconv("compare", source, *checkpoints, *how, "--json", "-o", written)
        assert result.code == 0, result.err
    found = result.json
    assert found["notes"] == [] and found["columns"] == [source.name, "sdllm", "ints"]
    firing = spikeconv("report-firing-rate", sdllm, "--text", text, "--tokens", 96, "--json", "-q").json["total"]
    totals = {"firing rate": ("firing_rate", None), "spikes per": ("spikes_per_input", None), "slots": ("slots", 1)}
    for name, (key, whole) in totals.items():
        assert values(found, name) == {source.name: None, "sdllm": firing[key], "ints": whole}  # counts go whole
    energy = spikeconv("report-energy", sdllm, "--text", text, "--tokens", 96, "--json", "-q").json
    for name, profile in energy["profiles"].items():
        index = [row["quantity"] for row in found["rows"]].index(name)
        joules, dense, sparse = (row["values"]["sdllm"] for row in found["rows"][index : index + 3])
        total = profile["total"]
        assert joules == pytest.approx(total["spiking"] / 96 / 1e6)
        assert (dense, sparse) == (total["spiking"] / total["integers"], total["spiking"] / total["sparse_integers"])
        plain = found["rows"][index]["values"][source.name]
        assert plain == pytest.approx(total["float_model"] / 96 / 1e6)  # the same products in float
    macs = sum(work["macs"] for work in energy["operations"]) / 96 / 1e6
    assert values(found, "float products")[source.name] == pytest.approx(macs)
    measured = spikeconv("perplexity", sdllm, "--text", text, "--max-tokens", 96, "--window", 32, "--json", "-q").json
    assert values(found, "perplexity")["sdllm"] == measured["perplexity"]
    # One table in every format.
    rows = list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert rows[0] == ["section", "quantity", "unit", *found["columns"], "note"]
    for row, read in zip(found["rows"], rows[1:], strict=True):
        assert [row["quantity"], row["unit"]] == read[1:3]
        assert ["" if value is None else str(value) for value in row["values"].values()] == read[3:6]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert len(lines) == 2 + len(found["rows"]) + len({row["section"] for row in found["rows"]})
    monkeypatch.setenv("COLUMNS", "80")
    shown = spikeconv("compare", source, *checkpoints, "--measure", "none").out
    assert "perplexity of text.txt" in shown
    # What was measured is there, and is not measured again; of the float model, as the baseline of a checkpoint.
    monkeypatch.setattr("spikeconv.comparison.measure.perplexity", lambda *_, **__: pytest.fail("measured again"))
    again = spikeconv("compare", *checkpoints, *how, "--json").json
    assert values(again, "perplexity")["ints"] == values(found, "perplexity")["ints"]
    reference = spikeconv("perplexity", sdllm, "--text", text, "--window", 16, "--baseline", "--json", "-q").json
    stored = spikeconv("compare", source, sdllm, "--measure", "none", "--json", "-q").json
    (row,) = (row for row in stored["rows"] if "windows of 16" in row["quantity"])
    assert row["values"] == {source.name: reference["baseline"]["perplexity"], "sdllm": reference["perplexity"]}


def test_what_is_not_alike_is_said(
    spikeconv: Fixture, converted: Fixture, checkpoints: list[Path], text: Path, tmp_path: Path
) -> None:
    sdllm, ints = checkpoints
    other = tmp_path / "other"
    shutil.copytree(converted("qwen2"), other)
    for path, tokens in ((sdllm, 40), (ints, 50)):
        assert spikeconv("record", path, "--text", text, "--tokens", tokens, "-q").code == 0
    spikeconv("perplexity", sdllm, "--text", text, "--window", 32, "-q")
    spikeconv("perplexity", ints, "--text", text, "--window", 32, "--dtype", "bfloat16", "-q")
    spikeconv("perplexity", ints, "--text", text, "--window", 16, "-q")
    found = spikeconv("compare", sdllm, ints, other, "--measure", "none", "--json", "-q").json
    models, spikes, alike = found["notes"]
    assert "different models" in models and "other of" in models
    assert "40 tokens" in spikes and "50 tokens" in spikes and "dtype" in alike and "bfloat16" in alike
    noted = {row["quantity"].split(" in windows of ")[-1]: row["note"] for row in found["rows"]}
    assert (noted["zero counts"], noted["horowitz45"], noted["32"], noted["16"]) == (2, 2, 3, None)
    rows = [row["values"] for row in found["rows"] if row["quantity"].startswith("perplexity")]
    assert len(rows) == 2 and all(row["other"] is None for row in rows)  # another question is another row
    same = spikeconv("compare", sdllm, ints, "--tokens", 30, "--text", text, "--json", "-q").json
    assert not any("Spikes" in note for note in same["notes"])  # all have read that text again
    # Results of other settings are not this checkpoint's.
    config = json.loads((sdllm / "config.json").read_text())
    config["quantization_config"]["inputs"]["clip_ratio"] = 0.8
    (sdllm / "config.json").write_text(json.dumps(config))
    changed = spikeconv("compare", sdllm, "--measure", "none", "--json", "-q").json
    assert not {"Spikes", "Quality"} & {row["section"] for row in changed["rows"]}
    assert "record.json" in changed["notes"][0] and "left out" in changed["notes"][0]
    recording = spikeconv("compare", ints / "record", "--json", "-q").json
    assert recording["columns"] == ["ints/record"] and "made from" in {row["quantity"] for row in recording["rows"]}


def test_bad_input(spikeconv: Fixture, checkpoints: list[Path], text: Path, tmp_path: Path) -> None:
    sdllm, empty = checkpoints[0], tmp_path / "empty"
    empty.mkdir()
    for arguments, words in (
        ((sdllm, "smolm2-135m"), ("smolm2-135m", "smollm2-135m")),
        ((sdllm, empty), ("empty", "config.json")),
        ((sdllm, sdllm), ("twice",)),
        ((sdllm, f"{sdllm}/"), ("twice",)),
        ((sdllm, "--measure", "speeds"), ("speeds", "perplexity")),
        ((sdllm, "--measure", "none,spikes"), ("none",)),
        ((sdllm, "--profile", "horowitz46"), ("horowitz45",)),
        ((sdllm, "--tasks", "piqa"), ("--tasks", "--measure tasks")),
        ((sdllm, "--measure", "tasks", "--tasks", "piqua"), ("piqua", "piqa")),
        ((sdllm, "--window", 32), ("--window", "--measure perplexity")),
        ((sdllm, "--text", tmp_path / "none.txt"), ("none.txt",)),
        ((sdllm, "--text", text, "--dataset", "c4"), ("--text", "--dataset")),
        ((sdllm, "--csv", "--json"), ("--csv", "--json")),
        ((sdllm, "-o", tmp_path / "table.txt"), ("table.txt", ".md")),
        ((sdllm, "-o", tmp_path / "no folder" / "t.md"), ("no such folder",)),
        ((sdllm, "--dtype", "float8"), ("float8",)),
        ((sdllm, "--measure", "perplexity", "--text", text, "--tokens", 5, "--window", 9), ("--window",)),
    ):
        result = spikeconv("compare", *arguments, "-q")
        assert result.code == 2 and "Traceback" not in result.err and result.out == "", (arguments, result)
        assert all(word in result.err for word in words), (arguments, result.err)
