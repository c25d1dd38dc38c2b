"""`finetune` and what it leaves behind: a model to convert, a log, a state to go on from, sentences for bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spikeconv.data.sample import sample_text
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]
QUICK = ["--window", 32, "--batch-size", 4, "--log-every", 1, "--learning-rate", 1e-3, "--device", "cpu"]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(sample_text(), encoding="utf-8")
    return path


@pytest.fixture
def tune(spikeconv: Fixture, tiny_checkpoint: Fixture, text: Path, tmp_path: Path) -> Fixture:
    """`tune(*options, family=…, output=…)`: a short run on a tiny model."""

    def run(*options: object, family: str = "llama", output: str = "out") -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)  # a command has a process of its own
        source = tiny_checkpoint(family)
        return spikeconv("finetune", source, "--text", text, "-o", tmp_path / output, *QUICK, "--quiet", *options)

    return run


def log_of(path: Path) -> list[dict[str, Any]]:
    file = path.parent / f"{path.name}.training" / "log.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "tokens_per_second"} for entry in entries]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_it_learns_and_converts(tune: Fixture, spikeconv: Fixture, text: Path, tmp_path: Path) -> None:
    summary = tune("--steps", 12, "--clip-quantile", 0.6, "--json").json
    log = log_of(tmp_path / "out")
    assert [entry["step"] for entry in log] == list(range(13))
    assert summary["steps"] == 12 and summary["tokens"] == 12 * 4 * 32 == log[-1]["tokens"]
    assert log[-1]["loss"] < log[0]["loss"] and summary["loss"] == log[-1]["loss"]
    plain = spikeconv("convert", tmp_path / "out", "-o", tmp_path / "plain", "--json", "-q")
    clipped = spikeconv("convert", "--clip-from", tmp_path / "out", "-o", tmp_path / "clipped", "--json", "-q")
    assert plain.code == clipped.code == 0
    record = json.loads((tmp_path / "out" / "spikeconv-clip.json").read_text())
    found = {
        name: (linear.scheme.clip.mode, linear.input_threshold.item())
        for name, linear in spike_linears(AutoModelForCausalLM.from_pretrained(tmp_path / "clipped")).items()
        if linear.scheme.clip is not None
    }
    assert found == {name: ("relu", value) for name, value in record["thresholds"].items()} and len(found) == 6
    rates = {}
    for name in ("plain", "clipped"):
        report = spikeconv("report-firing-rate", tmp_path / name, "--text", text, "--json", "-q").json
        rates[name] = {role: values["firing_rate"] for role, values in report["roles"].items()}
    assert rates["clipped"]["q"] < 0.65 * rates["plain"]["q"]
    assert rates["clipped"]["q"] == pytest.approx(summary["firing_rate"], rel=0.15)
    assert rates["clipped"]["down"] == pytest.approx(rates["plain"]["down"], rel=0.2)
    assert spikeconv("verify", tmp_path / "clipped", "-q").code == 0


@pytest.mark.parametrize(
    "options", [(), ("--accumulate", 2), ("--gradient-checkpointing",), ("--precision", "bfloat16")]
)
def test_resuming_is_the_same_as_going_on(tune: Fixture, tmp_path: Path, options: tuple[object, ...]) -> None:
    assert tune("--steps", 5, *options, output="whole").code == 0
    assert tune("--steps", 3, "--save-every", 2, *options, output="parts").code == 0
    assert tune("--steps", 5, "--resume", *options, output="parts").code == 0
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_checkpointing_and_accumulation_change_nothing(tune: Fixture, tmp_path: Path) -> None:
    tune("--steps", 3, output="plain")
    tune("--steps", 3, "--gradient-checkpointing", output="recomputed")
    assert log_of(tmp_path / "plain") == log_of(tmp_path / "recomputed")
    tune("--steps", 3, "--batch-size", 2, "--accumulate", 2, output="accumulated")
    first, again = log_of(tmp_path / "plain"), log_of(tmp_path / "accumulated")
    for ours, theirs in zip(
        first, again, strict=True
    ):  # τ of a batch is the mean over its parts, at the start above all
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_every_family(family: str, tune: Fixture, spikeconv: Fixture, tmp_path: Path) -> None:
    assert tune("--steps", 2, "--clip-mode", "two-sided", family=family).code == 0
    made = spikeconv("convert", "--clip-from", tmp_path / "out", "-o", tmp_path / "model", "-q")
    assert made.code == 0, made.err
    assert spikeconv("verify", tmp_path / "model", "-q").code == 0


def test_two_processes_are_one_with_twice_the_batch(
    tune: Fixture, tiny_checkpoint: Fixture, text: Path, tmp_path: Path
) -> None:
    one = tune("--steps", 3, "--batch-size", 4, output="one")
    assert one.code == 0
    arguments = ["finetune", str(tiny_checkpoint("llama")), "--text", str(text), "-o", str(tmp_path / "two")]
    options = [str(option) for option in [*QUICK, "--batch-size", 2, "--steps", 3, "-q"]]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "spikeconv", *arguments, *options], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)  # τ: the mean of two quantiles, not one of all
    assert json.loads((tmp_path / "two" / "spikeconv-clip.json").read_text())["training"]["processes"] == 2


def refused(result: Any, *words: str) -> None:
    assert result.code == 2, result
    assert "Traceback" not in result.err and result.out == ""
    assert len(result.err.strip().splitlines()) == 1
    for word in words:
        assert word in result.err


def test_bad_options(tune: Fixture, tmp_path: Path) -> None:
    cases: list[tuple[list[object], list[str]]] = [
        (["--clip-quantile", 1.0], ["inputs.clip.quantile", "less than 1"]),
        (["--clip-quantile", -0.1], ["inputs.clip.quantile"]),
        (["--clip-roles", "queries"], ["queries", "no linear"]),
        (["--batch-size", 1000], ["--batch-size"]),
        (["--window", 100], ["--window", "64"]),
        (["--accumulate", 0], ["accumulate"]),
        (["--learning-rate", 0], ["learning_rate"]),
        (["--resume"], ["nothing to resume"]),
        (["--dataset", "wikitext2"], ["--text", "--dataset"]),
    ]
    for options, words in cases:
        refused(tune(*options), *words)
        assert not (tmp_path / "out").exists()


def test_a_text_must_be_named(spikeconv: Fixture, tiny_checkpoint: Fixture) -> None:
    refused(spikeconv("finetune", tiny_checkpoint("llama")), "--text", "--dataset")


def test_other_settings_are_not_resumed(tune: Fixture, tmp_path: Path) -> None:
    tune("--steps", 2)
    before = weights(tmp_path / "out")
    refused(tune("--steps", 4), "exists", "--force")
    refused(tune("--steps", 4, "--resume", "--clip-quantile", 0.7), "clip_quantile was 0.5, is now 0.7")
    refused(tune("--steps", 4, "--resume", "--learning-rate", 1e-4), "learning_rate was 0.001, is now 0.0001")
    refused(tune("--steps", 1, "--resume"), "2 steps already", "--steps 1")
    refused(tune("--steps", 4, "--resume", "--refit-tokens", 0), "refit_tokens was 8192, is now 0")
    after = weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tune("--steps", 2, "--clip-quantile", 0.7, "--force").code == 0


def test_a_run_without_an_output_is_not_overwritten(tune: Fixture, tmp_path: Path) -> None:
    tune("--steps", 1)
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    (tmp_path / "out").rmdir()
    refused(tune("--steps", 1), "out.training", "--resume", "--force")


def test_nan_stops_and_keeps_the_last_state(tune: Fixture, tmp_path: Path) -> None:
    tune("--steps", 4)
    state = tmp_path / "out.training" / "state"
    damaged = load_file(state / "model.safetensors")
    damaged["model.norm.weight"][0] = float("nan")
    save_file(damaged, state / "model.safetensors", {"format": "pt"})
    kept = {path.name: path.read_bytes() for path in state.iterdir()}
    before = weights(tmp_path / "out")
    refused(tune("--steps", 6, "--resume"), "nan", "step 5", str(state), "--learning-rate")
    assert {path.name: path.read_bytes() for path in state.iterdir()} == kept
    after = weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("file", ["state/model.safetensors", "state/optimizer.bin", "settings.json"])
def test_a_damaged_state_is_a_sentence(tune: Fixture, tmp_path: Path, file: str) -> None:
    tune("--steps", 1)
    path = tmp_path / "out.training" / file
    path.write_bytes(path.read_bytes()[:-40])
    refused(tune("--steps", 2, "--resume"), path.parent.name if "/" in file else path.name, "--force")


def test_a_broken_model_is_a_sentence(spikeconv: Fixture, tiny_checkpoint: Fixture, text: Path, tmp_path: Path) -> None:
    source = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint("llama"), source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    refused(spikeconv("finetune", source, "--text", text, "-o", tmp_path / "out", *QUICK, "-q"), "nan", "stopped")
    refused(spikeconv("convert", source, "--clip-quantile", 0.5, "--clip-text", text, "--clip-tokens", 64,
                      "-o", tmp_path / "made", "-q"), "nan", "q_proj")  # fmt: skip
    assert not (tmp_path / "out").exists() and not (tmp_path / "made").exists()


def test_an_interrupted_run_goes_on(tiny_checkpoint: Fixture, text: Path, tmp_path: Path, tune: Fixture) -> None:
    command = [sys.executable, "-m", "spikeconv", "finetune", tiny_checkpoint("llama"), "--text", text]
    options = ["-o", tmp_path / "out", *QUICK, "--steps", 100000, "--save-every", 2]
    process = subprocess.Popen(
        [str(word) for word in (*command, *options)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    state = tmp_path / "out.training" / "state"
    deadline = time.monotonic() + 600  # a busy machine
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state.exists()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, 2) and "--resume" in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()
    done = torch.load(state / "custom_checkpoint_0.pkl")["step"]
    assert tune("--steps", done + 1, "--resume").code == 0
    assert [entry["step"] for entry in log_of(tmp_path / "out")] == list(range(done + 2))


def test_a_crash_while_states_change_places_loses_none(tune: Fixture, tmp_path: Path) -> None:
    tune("--steps", 2)
    folder = tmp_path / "out.training"
    (folder / "state").rename(folder / "state.old")
    assert tune("--steps", 3, "--resume").code == 0
    assert [entry["step"] for entry in log_of(tmp_path / "out")] == [0, 1, 2, 3]
    assert not (folder / "state.old").exists()


def test_a_finished_run_is_written_again(tune: Fixture, tmp_path: Path) -> None:
    """As after an interruption between the last step and the model."""
    first = tune("--steps", 3, "--json").json
    before = weights(tmp_path / "out")
    again = tune("--steps", 3, "--resume", "--json").json
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    after = weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_steps_it_only_refits(tune: Fixture, tmp_path: Path) -> None:
    refitted = tune("--steps", 0, "--json").json
    plain = tune("--steps", 0, "--refit-tokens", 0, "--json", output="plain").json
    assert refitted["tokens"] == plain["tokens"] == 0 and refitted["loss"] != plain["loss"]
    assert [entry["step"] for entry in log_of(tmp_path / "out")] == [0]
    made, plain_weights = weights(tmp_path / "out"), weights(tmp_path / "plain")
    changed = {name for name in made if not torch.equal(made[name], plain_weights[name])}
    assert changed == {f"model.layers.{i}.self_attn.{role}_proj.weight" for i in range(2) for role in "qkv"}
