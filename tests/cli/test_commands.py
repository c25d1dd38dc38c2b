"""Every command on a tiny converted model, as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.cli.app import app

COMMANDS = [command.name for command in app.registered_commands]
Run = Callable[..., Any]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 8, encoding="utf-8")
    return path


def test_help_has_an_example_and_json(spikeconv: Run) -> None:
    for command in COMMANDS:
        result = spikeconv(command, "--help")
        assert result.code == 0
        assert f"Example: spikeconv {command}" in result.out, command
        assert "--json" in result.out and "--quiet" in result.out, command


def test_convert_then_the_other_commands_use_the_last_checkpoint(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    out = tmp_path / "spiking"
    result = spikeconv("convert", tiny_checkpoint("qwen2"), "-o", out, "--steps", 16, "--override", "down:bits=6-1.58")
    assert result.code == 0
    assert "lm_head" in result.err and "76" in result.err
    assert str(out) in result.out

    report = spikeconv("report-firing-rate", "--text", text, "--tokens", 50, "--json")
    assert {layer["virtual_steps"] for layer in report.json["layers"]} == {16, 32}
    assert len(report.json["layers"]) == 14
    assert report.json["total"]["tokens"] == 50
    assert str(out) in report.err

    verified = spikeconv("verify", "--text", text, "--tokens", 9, "--json")
    assert verified.code == 0 and verified.json["clean"]
    assert verified.json["rotation_error"] < 1e-4

    measured = spikeconv("perplexity", "--text", text, "--window", 32, "--baseline", "--json").json
    assert {"perplexity", "bits_per_byte", "tokens", "window", "seconds"} <= measured.keys() & measured[
        "baseline"
    ].keys()
    assert measured["perplexity"] != measured["baseline"]["perplexity"]

    generated = spikeconv("generate", "-p", "It was", "-n", 3, "--json").json
    assert generated["tokens"] <= 3
    streamed = spikeconv("generate", "-p", "It was", "-n", 3)
    assert streamed.out.startswith("It was")


def test_executions_print_the_same_perplexity(spikeconv: Run, converted: Callable[..., Path], text: Path) -> None:
    found = {
        execution: spikeconv(
            "perplexity", converted("llama"), "--text", text, "--window", 32, "--exec", execution, "--json"
        )
        for execution in ("dense", "events", "unfold")
    }
    assert len({result.json["perplexity"] for result in found.values()}) == 1


def test_dry_run_writes_nothing(spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    result = spikeconv(
        "convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", "--dry-run", "--json", "--skip", "o"
    )
    assert len(result.json["linears"]) == 12
    assert result.json["skipped"]["model.layers.0.self_attn.o_proj"] == "asked for by --skip"
    assert not (tmp_path / "out").exists()


def test_the_record_says_how(spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_checkpoint("llama")
    spikeconv("convert", source, "-o", tmp_path / "out", "--set", "clip_ratio=0.8", "--quiet")
    record = json.loads((tmp_path / "out" / "spikeconv.json").read_text())
    assert record["command"] == f"spikeconv convert {source} -o {tmp_path / 'out'} --set clip_ratio=0.8 --quiet"
    assert record["config"]["inputs"]["clip_ratio"] == 0.8


def test_scheme_file_then_options_then_set(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    scheme = tmp_path / "scheme.yaml"
    scheme.write_text("bits: 6-1.58\nclip_ratio: 0.7\nseed: 3\n", encoding="utf-8")
    result = spikeconv(
        "convert", tiny_checkpoint("llama"), "--dry-run", "--json",
        "--scheme", scheme, "--clip-ratio", 0.8, "--set", "inputs.clip_ratio=0.95", "--set", "bits=4-1",
    )  # fmt: skip
    linear = result.json["linears"][0]
    assert (linear["weights"]["bits"], linear["inputs"]["spikes"], linear["virtual_steps"]) == (4, "binary", 15)
    assert (linear["inputs"]["clip_ratio"], linear["rotation"]["seed"]) == (0.95, 3)


def test_models_and_doctor(spikeconv: Run) -> None:
    listed = spikeconv("models", "--json").json
    names = "llama2-7b llama2-13b llama2-70b llama3-8b llama3-70b llama3.2-1b mistral-7b qwen2.5-0.5b qwen2.5-7b "
    names += "qwen2.5-14b qwen2.5-72b qwen3-0.6b qwen3-8b smollm2-135m rwkv-4-169m rwkv-6-1b6 rwkv-7-1.5b minilm-l6 "
    names += "llama3.1-405b"
    assert set(names.split()) == listed["presets"].keys()
    assert set(listed["families"]) >= {"llama", "mistral", "qwen2", "qwen3"}
    assert spikeconv("doctor", "--json").json["backend"]["execution"] == "auto"
    assert "llama2-7b" in spikeconv("models").out
    assert "backend" in spikeconv("doctor").out


def test_verify_finds_a_changed_file(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, text: Path
) -> None:
    spikeconv("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", "--quiet")
    weights = tmp_path / "out" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = spikeconv("verify", "--text", text, "--no-source")
    assert result.code == 1
    assert "DIFFERENT" in result.out and "model.safetensors" in result.out
