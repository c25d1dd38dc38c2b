"""`--budget` and settings that are `auto`, from the command line: what is written, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.data.sample import sample_text

Run = Callable[..., Any]
RAMP = ("--count-scale", "rms", "--temporal-code", "ramp", "--slots", "16")


@pytest.fixture
def text(tmp_path: Path) -> tuple[Any, ...]:
    path = tmp_path / "text.txt"
    path.write_text(sample_text(), encoding="utf-8")
    return "--calibration", path, "--calibration-tokens", 256


def test_a_budget_of_spikes_is_kept(
    spikeconv: Run, tiny_checkpoint: Run, text: tuple[Any, ...], tmp_path: Path
) -> None:
    """Chosen on a text, measured on the same by what counts spikes everywhere else."""
    for budget in (0.6, 0.9):
        output = tmp_path / f"b{budget}"
        asked = ("--budget", f"spikes={budget}", "--balance", "sqrt")
        result = spikeconv("convert", tiny_checkpoint("llama"), "-o", output, *RAMP, *asked, *text)
        assert result.code == 0 and "encoders chosen" in result.err, result.err
        record = json.loads((output / "spikeconv.json").read_text())
        assert record["search"]["budget"] == f"spikes={budget}" and record["search"]["expected_spikes"] <= budget
        overrides = json.loads((output / "config.json").read_text())["quantization_config"]["overrides"]
        assert {each["pattern"] for each in overrides} == set(record["layers"])
        report = spikeconv("report-firing-rate", output, "--text", text[1], "--tokens", 256, "--json", "--quiet")
        assert report.json["total"]["spikes_per_input"] == pytest.approx(budget, abs=0.08)
        assert spikeconv("verify", output, "--quiet").code == 0


def test_a_budget_of_perplexity(spikeconv: Run, tiny_checkpoint: Run, text: tuple[Any, ...], tmp_path: Path) -> None:
    asked = ("--bits", "8-1.58", "--budget", "perplexity=1.5", *RAMP, *text)
    result = spikeconv("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", *asked)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "spikeconv.json").read_text())["search"]
    assert record["measured_ratio"] <= 1.5 and f"{record['measured_ratio']:.4f} times" in result.err


def test_auto_takes_the_least_error(
    spikeconv: Run, tiny_checkpoint: Run, text: tuple[Any, ...], tmp_path: Path
) -> None:
    """Of several clip ratios; a price for spikes never buys more of them."""
    found = []
    for number, price in enumerate(((), ("--spike-price", 1.0))):
        output = tmp_path / str(number)
        asked = ("--clip-ratio", "auto", "--count-scale", "auto", *price, *text)
        assert spikeconv("convert", tiny_checkpoint("qwen2"), "-o", output, *asked).code == 0
        found.append(json.loads((output / "spikeconv.json").read_text())["search"])
    assert found[0]["auto"] == ["clip_ratio", "count_scale"]
    assert found[1]["expected_spikes"] <= found[0]["expected_spikes"]
    assert found[1]["expected_error"] >= found[0]["expected_error"]


def test_what_is_refused(spikeconv: Run, tiny_checkpoint: Run, text: tuple[Any, ...], tmp_path: Path) -> None:
    for arguments, *words in (
        (("--budget", "spikes"), "budget", "spikes=N", "spikes=1.0"),
        (("--budget", "watts=3"), "budget", "watts=3"),
        (("--budget", "spikes=0.001", *RAMP), "0.001", "out of reach", "the least"),
        (("--budget", "perplexity=0.5"), "0.5", "out of reach", "finest"),
        (("--budget", "spikes=1", "--clip-ratio", "auto"), "leave auto"),
        (("--spike-price", -1.0, "--clip-ratio", "auto"), "spike_price", "greater than or equal to 0"),
        (("--spike-price", 1.0), "spike_price", "auto"),
        (("--clip-ratio", "much"), "--clip-ratio", "much", "number or auto"),
        (("--budget", "spikes=1", "--bits", "4-16"), "No linear sends counts"),
    ):
        result = spikeconv("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", *arguments, *text, "--quiet")
        assert result.code == 2 and "Traceback" not in result.err, (arguments, result.err)
        assert all(word in " ".join(result.err.split()) for word in words), (arguments, result.err)
    assert not (tmp_path / "out").exists()
