"""`finetune` through spikes: it learns, goes on, and its conversion computes what was trained."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from spikeconv.calibrate.through_spikes import through_spikes
from spikeconv.calibrate.training_record import TrainingRecord
from spikeconv.data.labelled import collate, labelled
from spikeconv.data.sample import sample_text
from spikeconv.families import output_of
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]
QUICK = ["--batch-size", 4, "--log-every", 1, "--learning-rate", 1e-3, "--device", "cpu", "--quiet"]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Which of two letters stands in a text."""
    path = tmp_path / "letters.jsonl"
    rows = [{"text": "abcde"[n % 5] * 3 + "xy"[n % 2] * 5, "label": n % 2} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tune(spikeconv: Fixture, tmp_path: Path) -> Fixture:
    """`tune(source, *options, output=…)`: a short run."""

    def run(source: Path, *options: object, output: str = "out") -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)  # a command has a process of its own
        return spikeconv("finetune", source, "-o", tmp_path / output, *QUICK, *options)

    return run


def log_of(path: Path) -> list[dict[str, Any]]:
    entries = map(json.loads, (path.parent / f"{path.name}.training" / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in entry.items() if key != "tokens_per_second"} for entry in entries]


def test_a_classifier_learns_through_spikes_and_converts(
    tune: Fixture, spikeconv: Fixture, tiny_checkpoint: Fixture, examples: Path, tmp_path: Path
) -> None:
    source = tiny_checkpoint("bert")
    whole = tune(source, "--task", examples, "--steps", 30, "--json", output="float")
    assert whole.code == 0 and whole.json["loss"] < 0.1, whole
    spikes = ("--codec", "elastic", "--time-steps", 2, "--task", examples)
    made = tune(tmp_path / "float", *spikes, "--steps", 30, "--json", output="spiking")
    log = log_of(tmp_path / "spiking")
    assert made.code == 0 and log[-1]["loss"] < 0.5 * log[0]["loss"], log
    assert 0.1 < made.json["firing_rate"] < 0.9
    noted = spikeconv("convert", tmp_path / "spiking", "-o", tmp_path / "otherwise")
    assert "--as-trained converts it" in noted.err
    done = spikeconv("convert", tmp_path / "spiking", "--as-trained", "-o", tmp_path / "converted", "-q")
    assert done.code == 0, done.err
    assert spikeconv("verify", tmp_path / "converted", "-q").code == 0

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "spiking").eval()
    record = TrainingRecord.read(tmp_path / "spiking")
    held = {name: {kind: torch.tensor(value) for kind, value in kinds.items()} for name, kinds in record.held.items()}
    assert len(held) == 12 and sum("output_alpha" in kinds for kinds in held.values()) == 4
    through_spikes(model, record.settings(), held)
    texts = labelled(str(examples), "test")
    given = collate(load_float(HfSource(tmp_path / "spiking"), device="cpu"), texts)
    labels = given.pop("labels")
    converted = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        trained, found = model(**given).logits, converted(**given).logits
    assert (trained - found).abs().max() <= 1e-4 * trained.abs().max(), "the same neurons, the same spikes"
    scored = spikeconv("eval", tmp_path / "converted", "--tasks", examples, "--json", "-q", "--batch-size", 24).json
    assert scored["tasks"][str(examples)]["value"] == float((found.argmax(-1) == labels).float().mean()) > 0.9
    assert scored["tasks"][str(examples)]["n"] == 24


def test_resuming_is_the_same_as_going_on(
    tune: Fixture, tiny_checkpoint: Fixture, examples: Path, tmp_path: Path
) -> None:
    source = tiny_checkpoint("bert")
    for options in (("--set", "alpha=learned"), ("--bits", "1-1.58", "--no-distill", "--gradient-checkpointing")):
        options = ("--codec", "elastic", "--task", examples, *options, "--force")
        assert tune(source, *options, "--steps", 5, output="whole").code == 0
        assert tune(source, *options, "--steps", 3, "--save-every", 2, output="parts").code == 0
        assert tune(source, *options, "--steps", 5, "--resume", output="parts").code == 0
        assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
        names = [path.name for path in (tmp_path / "whole").iterdir() if path.suffix in (".json", ".safetensors")]
        for name in sorted(names):
            whole, parts = ((tmp_path / part / name) for part in ("whole", "parts"))
            if name == "spikeconv-training.json":
                assert json.loads(whole.read_text())["held"] == json.loads(parts.read_text())["held"]
            else:
                assert whole.read_bytes() == parts.read_bytes(), name
    first = json.loads((tmp_path / "whole" / "spikeconv-training.json").read_text())
    assert first["training"]["distill_logits"] == 0


def test_learned_alpha_moves_and_a_calibrated_one_stays(
    tune: Fixture, tiny_checkpoint: Fixture, examples: Path, tmp_path: Path
) -> None:
    found = {}
    for alpha in ("learned", "batch"):
        for steps in (1, 6):
            options = ("--codec", "elastic", "--set", f"alpha={alpha}", "--task", examples, "--steps", steps)
            assert tune(tiny_checkpoint("bert"), *options, output=f"{alpha}{steps}").code == 0
            record = TrainingRecord.read(tmp_path / f"{alpha}{steps}")
            found[alpha, steps] = record.tensors("input_alpha") | record.tensors("output_alpha")
    assert all(torch.equal(found["batch", 1][name], each) for name, each in found["batch", 6].items())
    assert not any(torch.equal(found["learned", 1][name], each) for name, each in found["learned", 6].items())


def test_two_processes_are_one_with_twice_the_batch(
    tune: Fixture, tiny_checkpoint: Fixture, examples: Path, tmp_path: Path
) -> None:
    """But for α, the mean of what two halves of a batch say."""
    source = tiny_checkpoint("bert")
    options = ("--task", examples, "--codec", "elastic", "--set", "alpha=learned", "--steps", 3)
    assert tune(source, *options, output="one").code == 0
    arguments = ["finetune", source, "-o", tmp_path / "two", *QUICK, "--batch-size", 2, *options]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "spikeconv"]
    done = subprocess.run(
        [*launch, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, two = (TrainingRecord.read(tmp_path / name) for name in ("one", "two"))
    assert two.training["processes"] == 2
    for kind in ("input_alpha", "output_alpha"):
        for name, alpha in one.tensors(kind).items():
            assert torch.allclose(alpha, two.tensors(kind)[name], rtol=0.15), (kind, name)
    for ours, theirs in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.25)  # each has dropout of its own


def test_a_causal_model_trains_through_every_codec(
    tune: Fixture, spikeconv: Fixture, tiny_checkpoint: Fixture, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(sample_text(), encoding="utf-8")
    source = tiny_checkpoint("llama")
    cases = (
        ("--bits", "4-1.58", "--skip", "down"),
        ("--bits", "1.58-4"),
        ("--set", "codec=gif", "--bits", "4-4"),
        ("--codec", "elastic", "--time-steps", 2),
    )
    for index, options in enumerate(cases):
        out, model = f"out{index}", tmp_path / f"model{index}"
        made = tune(source, "--text", text, "--window", 32, "--steps", 5, *options, output=out)
        assert made.code == 0, made.err
        log = log_of(tmp_path / out)
        assert log[-1]["loss"] < log[0]["loss"], (options, log)
        done = spikeconv("convert", tmp_path / out, "--as-trained", "-o", model, "-q")
        assert done.code == 0, done.err
        assert spikeconv("verify", model, "-q").code == 0
        record = TrainingRecord.read(tmp_path / out)
        held = {name: {kind: record.tensors(kind)[name] for kind in kinds} for name, kinds in record.held.items()}
        trained = AutoModelForCausalLM.from_pretrained(tmp_path / out).eval()
        through_spikes(trained, record.settings(), held)
        ids = torch.randint(256, (2, 24))
        with torch.no_grad():
            expected = output_of(trained(ids))
            found = output_of(AutoModelForCausalLM.from_pretrained(model).eval()(ids))
        # A last bit of the first layer may be a count, and so a spike, of the second.
        assert (found - expected).norm() <= 0.05 * expected.norm(), options
        assert load_file(tmp_path / out / "model.safetensors").keys() == load_file(source / "model.safetensors").keys()


def test_bad_input_is_a_sentence(
    tune: Fixture, spikeconv: Fixture, tiny_checkpoint: Fixture, converted: Fixture, examples: Path, tmp_path: Path
) -> None:
    bert, text, given = tiny_checkpoint("bert"), tmp_path / "text.txt", tmp_path / "given.jsonl"
    text.write_text(sample_text(), encoding="utf-8")
    cases: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        ((bert, "--task", "sst3"), ("no labels for 'sst3'", "Did you mean sst2?")),
        ((bert, "--task", tmp_path / "none.jsonl"), ("none.jsonl", "No such file")),
        ((bert, "--task", examples, "--text", text), ("--text", "texts of its own")),
        ((bert, "--task", examples, "--distill"), ("--distill", "--codec elastic")),
        ((bert, "--task", examples, "--codec", "elastic", "--clip-quantile", 0.5), ("--clip-quantile", "clipped")),
        ((bert, "--task", examples, "--codec", "elastic", "--set", "k=0"), ("inputs.k", "0")),
        ((bert, "--task", examples, "--bits", "4-1.58", "--set", "balance=sqrt"), ("balance=sqrt", "train")),
        ((bert, "--task", examples, "--bits", "4-1.58", "--set", "weights=gptq"), ("gptq", "only be rtn")),
        ((bert, "--text", text, "--codec", "elastic"), ("encoder", "finetune --task")),
        ((tiny_checkpoint("llama"), "--task", examples), ("LlamaForCausalLM", "classifier")),
        ((bert, "--task", examples, "--batch-size", 100), ("24 examples", "--batch-size")),
        ((converted("llama"), "--text", text, "--bits", "4-1.58"), ("already converted",)),
    ]
    for line, words in (
        ('{"text": "a"}', ("line 1", '"label"', "None")),
        ('{"text": "a", "label": true}', ("line 1", '"label"', "True")),
        ('{"text": "a", "label": -1}', ("line 1", "-1")),
        ('{"label": 1}', ("line 1", '"text"')),
        ('{"text": "a", "label": 0}\n{"text": "a", "pair": "b", "label": 0}', ('"pair"',)),
        ("[1", ("line 1", "JSON")),
        ("", ("no examples",)),
    ):
        given.write_text(line)
        result = tune(bert, "--task", given)
        assert result.code == 2 and all(word in result.err for word in words), (line, result)
    for arguments, words in cases:
        result = tune(*arguments)
        assert result.code == 2 and "Traceback" not in result.err, result
        assert len(result.err.strip().splitlines()) == 1 and all(word in result.err for word in words), result
        assert not (tmp_path / "out").exists()

    assert tune(bert, "--task", examples, "--codec", "elastic", "--steps", 1).code == 0
    trained, record = tmp_path / "out", tmp_path / "out" / "spikeconv-training.json"
    kept = record.read_text()
    damaged = json.loads(kept)
    damaged["held"]["bert.encoder.layer.0.output.dense"].pop("input_alpha")
    for content, arguments, words in (
        (kept, (trained, "--as-trained", "--bits", "4-4"), ("--as-trained", "leave the others out")),
        (kept, (bert, "--as-trained"), ("holds no spikeconv-training.json",)),
        (kept[:-100], (trained, "--as-trained"), ("spikeconv-training.json is damaged",)),
        (json.dumps(damaged), (trained, "--as-trained"), ("no input_alpha for bert.encoder.layer.0.output.dense",)),
    ):
        record.write_text(content)
        result = spikeconv("convert", *arguments, "-o", tmp_path / "no", "-q")
        assert result.code == 2 and all(word in result.err for word in words), result
        assert not (tmp_path / "no").exists()
    record.write_text(kept)
    assert spikeconv("convert", trained, "--as-trained", "-o", tmp_path / "good", "-q").code == 0
    given.write_text('{"text": "a", "label": 2}')
    for arguments, words in (
        ((tmp_path / "good", "--tasks", given), ("label 2", "knows 2 labels")),
        ((tmp_path / "good", "--tasks", "piqa", "--data", "offline"), ("encoder", "likelihood")),
        ((converted("bert"), "--tasks", given), (str(given), "no task")),
    ):
        result = spikeconv("eval", *arguments, "-q")
        assert result.code == 2 and all(word in result.err for word in words), result
