"""Bad input is one sentence on stderr and exit code 2."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def refused(result: Any, *words: str) -> None:
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert result.out == ""
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bits", "5.5-3"], ["bits", "4-1.58"]),
        (["--bits", "4-1.58", "--steps", "12"], ["steps", "16"]),
        (["--bits", "4-4", "--steps", "8"], ["steps"]),
        (["--clip-ratio", "1.5"], ["clip_ratio"]),
        (["--set", "clipratio=1"], ["clipratio", "clip_ratio"]),
        (["--set", "seed"], ["key=value"]),
        (["--override", "down"], ["PATTERN:key=value"]),
        (["--override", "nothing:bits=4-4"], ["nothing", "no linear"]),
        (["--skip", "nothing"], ["nothing", "no linear"]),
        (["--skip", "*"], ["Nothing to convert"]),
        (["--scheme", "sdllm-4"], ["sdllm-4-1.58"]),
        (["--dtype", "float8"], ["float8", "bfloat16"]),
        (["--override", "down:rotation=quarot"], ["quarot"]),
        (["--clip-quantile", "1"], ["inputs.clip.quantile", "less than 1"]),
        (["--clip-quantile", "-1"], ["inputs.clip.quantile"]),
        (["--clip-quantile", "0.5", "--clip-roles", "x"], ["x", "no linear"]),
        (["--clip-quantile", "0.5", "--rotation", "quarot"], ["inputs.clip", "QuaRot"]),
        (["--clip-quantile", "0.5", "--codec", "multihead"], ["inputs.clip", "multihead"]),
        (["--clip-quantile", "0.5", "--clip-text", "no such file"], ["no such file"]),
        (["--clip-from", "no such folder"], ["spikeconv-clip.json", "finetune"]),
        (["--clip-from", ".", "--clip-quantile", "0.5"], ["--clip-from"]),
    ],
)
def test_convert_options(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    result = spikeconv("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out", "--quiet", *arguments)
    refused(result, *words)
    assert not (tmp_path / "out").exists()


def test_unreachable_hub_model_is_one_sentence(spikeconv: Run) -> None:
    start = time.monotonic()
    for name in ("meta-llama/Llama-2-7b-hf", "llama2-7b"):
        result = spikeconv("convert", name)
        refused(result, "meta-llama/Llama-2-7b-hf", "local directory", "`hf auth login`", "`spikeconv convert` alone")
        assert len(result.err.strip().splitlines()) == 1
    assert time.monotonic() - start < 20


def test_existing_output_is_refused_and_kept(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    arguments = ("convert", tiny_checkpoint("llama"), "-o", tmp_path / "out")
    refused(spikeconv(*arguments), "not empty", "--force")
    refused(spikeconv(*arguments, "--force"), "holds no spikeconv.json")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_remote_code_needs_the_flag(spikeconv: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "nova", "architectures": ["NovaForCausalLM"],'
        ' "auto_map": {"AutoModelForCausalLM": "nova.Nova"}}'
    )
    refused(spikeconv("convert", tmp_path), "nova.Nova", "--trust-remote-code")
    refused(spikeconv("convert", tmp_path, "--trust-remote-code"), "NovaForCausalLM", "LlamaForCausalLM")


@pytest.mark.parametrize("command", ["eval", "perplexity", "report-firing-rate", "verify", "generate"])
def test_checkpoint_must_be_a_converted_one(
    spikeconv: Run, tiny_checkpoint: Callable[..., Path], tmp_path: Path, command: str
) -> None:
    refused(spikeconv(command), "spikeconv convert")
    refused(spikeconv(command, tiny_checkpoint("llama")), "spikeconv.json")
    refused(spikeconv(command, tmp_path / "nowhere"), "nowhere")


def test_texts(spikeconv: Run, converted: Callable[..., Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for command in (["perplexity", "--window", 32], ["report-firing-rate"], ["verify"]):
        refused(spikeconv(*command, converted("llama"), "--text", empty, "--quiet"), "empty")
        refused(spikeconv(*command, converted("llama"), "--text", tmp_path / "gone.txt", "--quiet"), "gone.txt")
    short = tmp_path / "short.txt"
    short.write_text("few words")
    refused(spikeconv("perplexity", converted("llama"), "--text", short, "--window", 32, "--quiet"), "9", "--window")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_conversion_that_was_stopped_goes_on(
    number: signal.Signals, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    """By Ctrl-C or a signal in the middle: the exit code says which, there is no output, and the command goes on."""
    code = (
        "import os, signal, sys, spikeconv.conversion.work as p\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # and nohup this
        "real, calls = p.convert_blocks, []\n"
        "def slow(*a, **k):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 5:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    return real(*a, **k)\n"
        "if 'go on' not in os.environ.get('DO', ''):\n"
        "    p.convert_blocks = slow\n"
        "from spikeconv.cli.app import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "convert", str(tiny_checkpoint("llama")), "-o", str(tmp_path / "out")]
    env = {**os.environ, "SPIKECONV_CACHE": str(tmp_path / "cache"), "SPIKECONV_NATIVE": "0"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 128 + number
    assert "interrupted: " in run.stderr and "the same command goes on" in run.stderr and "Traceback" not in run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {".out.incomplete"}
    run = subprocess.run(command, env={**env, "DO": "go on"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "Going on with" in run.stderr
    assert ".out.incomplete" not in {path.name for path in tmp_path.iterdir()} >= {"out"}
