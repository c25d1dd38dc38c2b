"""`--balance` and the calibration text, from the command line: what is written, what is warned of, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.data.sample import sample_text

Run = Callable[..., Any]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(sample_text(), encoding="utf-8")
    return path


def test_a_balanced_conversion(spikeconv: Run, tiny_checkpoint: Run, text: Path, tmp_path: Path) -> None:
    """The record says on what it was calibrated; `perplexity` warns of that text and of no other."""
    shared = ("--balance", "sqrt", "--calibration", text, "--calibration-tokens", 128)
    for output, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = (tiny_checkpoint("qwen2"), "-o", tmp_path / output, *shared, "--calibration-seed", seed)
        result = spikeconv("convert", *arguments)
        assert result.code == 0 and "Calibrating the balance on 128 tokens" in result.err
    records = [json.loads((tmp_path / output / "spikeconv.json").read_text()) for output in "abc"]
    first, same, other = (record["calibration"] for record in records)
    assert first == same and first["ids_sha256"] != other["ids_sha256"]
    assert {"text": str(text), "tokens": 128, "window": 64, "seed": 3}.items() <= first.items()
    assert records[0]["tensors"] == records[1]["tensors"] and records[0]["tensors"] != records[2]["tensors"]
    assert json.loads((tmp_path / "a/config.json").read_text())["quantization_config"]["balance"] == "sqrt"
    assert spikeconv("verify", tmp_path / "a").code == 0
    measured = ("perplexity", tmp_path / "a", "--window", 32, "--max-tokens", 64, "--quiet", "--text")
    assert "was calibrated on this text" in spikeconv(*measured, text).err
    text.write_text(sample_text() + ".", encoding="utf-8")
    assert "calibrated" not in spikeconv(*measured, text).err


def test_what_is_refused(spikeconv: Run, tiny_checkpoint: Run, text: Path, tmp_path: Path) -> None:
    convert = ("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", "--balance", "sqrt", "--quiet")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    for arguments, *words in (
        (("--rotation", "quarot"), "balance=sqrt", "QuaRot"),
        (("--calibration", tmp_path / "none.txt"), "none.txt", "mixed"),
        (("--calibration", "wikitext3"), "wikitext3", "wikitext2"),
        (("--calibration", "owner/name"), "owner/name"),
        (("--calibration", text, "--calibration-tokens", 10**6), "fewer than the 1,000,000", "--calibration-tokens"),
        (("--calibration", empty), "is empty"),
        (("--calibration-tokens", 1), "calibration_tokens"),
        (("--calibration-seed", -1), "calibration_seed"),
        (("--override", "q:balance=none", "--calibration", text), "same input"),
    ):
        result = spikeconv(*convert, *arguments)
        assert result.code == 2 and all(word in result.err for word in words), (arguments, result.err)
        assert not (tmp_path / "out").exists()
    clipped = ("convert", tiny_checkpoint("rwkv"), "-o", tmp_path / "out", "--balance", "sqrt", "--clip-quantile", 0.5)
    result = spikeconv(*clipped)
    assert result.code == 2 and "leave --balance or the clipping out" in result.err
