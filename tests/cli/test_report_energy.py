"""`report-energy`: of a checkpoint, and of shapes without weights; bad input is a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fixture = Callable[..., Any]

PAPER = ("--model", "llama2-7b", "--rate", 0.216, "--profile", "sdllm45", "--attention", "linears", "--no-head")


def test_the_papers_number_without_weights(spikeconv: Fixture) -> None:
    """SDLLM, table 2: LLaMA2-7B takes 31.77 J in float, 3.97 J in 4-4 and 0.67 J in 4-1.58 at a rate of .216."""
    found = spikeconv("report-energy", *PAPER, "--bits", "4-1.58", "--json").json
    total = found["profiles"]["sdllm45"]["total"]
    for name, joules in (("float_model", 31.77), ("integers", 3.97), ("spiking", 0.67)):
        assert total[name] * 1e-12 == pytest.approx(joules, abs=0.005)
    assert total["sparse_integers"] is None and found["profiles"]["sdllm45"]["break_even"] is None
    known = spikeconv("report-energy", *PAPER, "--zeros", 0.15, "--json").json["profiles"]["sdllm45"]
    assert known["total"]["sparse_integers"] == pytest.approx(0.85 * total["integers"])
    text = spikeconv("report-energy", *PAPER, "--parts").out
    assert "671 mJ" in text and "31.8 J" in text and "attention" in text
    grouped = ("--model", "llama3-8b", "--rate", 0.21, "--attention", "none", "--no-head", "--json")
    macs = [
        sum(work["macs"] for work in spikeconv("report-energy", *grouped, *more).json["operations"])
        for more in ((), ("--no-gqa",))
    ]
    assert macs[1] == pytest.approx(7.97e12, rel=1e-3) and macs[0] < macs[1]  # as SDLLM counts it, and as it is


def test_a_checkpoint_by_every_profile(spikeconv: Fixture, converted: Fixture) -> None:
    path = converted("llama", bits="4-1.58")
    found = spikeconv("report-energy", path, "--tokens", 40, "--json", "-q").json
    assert found["tokens"] == 40 and set(found["profiles"]) == {"horowitz45", "lemaire45", "sdllm45"}
    for each in found["profiles"].values():
        assert each["source"] and each["node"] == "45 nm"
        assert each["total"]["spiking"] == pytest.approx(sum(line["spiking"] for line in each["lines"]))
        assert each["total"]["spiking"] == pytest.approx(sum(each["total"]["terms"].values()))
        assert each["break_even"] is not None
    text = spikeconv("report-energy", path, "--tokens", 40, "-q").out
    assert "break-even with integers that skip zeros" in text and "spikes cost" in text


def test_bad_input(spikeconv: Fixture, converted: Fixture, tmp_path: Path) -> None:
    path, negative = converted("llama", bits="4-1.58"), tmp_path / "negative.yaml"
    negative.write_text("source: s\nnode: n\nfloat_mac: -1\ninteger_mac: {8: 1}\naccumulate: 1\n")
    for arguments, words in (
        ((path, "--profile", "horowitz46"), ("horowitz46", "Did you mean horowitz45?")),
        ((path, "--profile", negative), ("float_mac", "-1")),
        ((path, "--profile", ","), ("--profile names none",)),
        ((path, "--rate", 0.2), ("--rate", "--model")),
        ((path, "--bits", "4-4"), ("--bits", "--model")),
        (("--model", "llama2-7b"), ("--rate",)),
        (("--model", "llama2-7b", "--rate", 1.5), ("--rate", "0 to 1")),
        (("--model", "llama2-7b", "--rate", -0.1), ("--rate", "0 to 1")),
        (("--model", "llama2-7b", "--rate", 0.2, "--zeros", 2), ("--zeros", "0 to 1")),
        (("--model", "lama2-7b", "--rate", 0.2), ("lama2-7b", "llama2-7b")),
        ((path, "--model", "llama2-7b", "--rate", 0.2), ("CHECKPOINT", "--model")),
        ((path, "--tokens", 0), ("Invalid value",)),
        ((tmp_path,), ("not a converted checkpoint",)),
    ):
        result = spikeconv("report-energy", *arguments, "-q")
        assert result.code == 2 and "Traceback" not in result.err and result.out == "", (arguments, result)
        assert all(word in result.err for word in words), (arguments, result.err)
