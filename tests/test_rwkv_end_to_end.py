"""The two trained RWKV models of this repository, from checkpoint to scores. The bounds are those that SpikeRWKV's
table implies; docs/benchmarks/rwkv.md has the measured numbers. The text is what training never saw."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from spikeconv.evaluate.generate import generate_text
from spikeconv.evaluate.models import LoadedModel, load_checkpoint
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.evaluate.tasks import evaluate_tasks
from spikeconv.families import FAMILIES
from spikeconv.integrations.lm_eval import HarnessModel
from spikeconv.progress import silent
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import FiringReport, firing_report
from spikeconv.sources.float_model import load_float
from spikeconv.verification.run import verify

ASSETS = Path(__file__).parent / "assets"
HELD_OUT = (ASSETS / "brown-held-out.txt").read_text(encoding="ascii")
TOKENS, WINDOW = 4096, 1024

Measure = Callable[..., tuple[float, FiringReport]]


@pytest.fixture(scope="module", params=["rwkv4-brown", "rwkv6-brown"])
def source(request: pytest.FixtureRequest) -> Path:
    return ASSETS / str(request.param)


@pytest.fixture(scope="module")
def float_model(source: Path) -> LoadedModel:
    return load_float(source)


@pytest.fixture(scope="module")
def spiking(source: Path, run_convert: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """4-1.58, the default."""
    out = tmp_path_factory.mktemp("rwkv") / "spiking"
    run_convert(source, out)
    return load_checkpoint(out)


@pytest.fixture(scope="module")
def measure(
    source: Path, float_model: LoadedModel, run_convert: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Measure:
    """`measure(**settings)`: perplexity relative to the float model's, and the firing report."""
    work = tmp_path_factory.mktemp("settings")
    of_float = perplexity(float_model, HELD_OUT, window=WINDOW, max_tokens=TOKENS).perplexity

    def run(**settings: Any) -> tuple[float, FiringReport]:
        out = work / "model"
        run_convert(source, out, force=True, **settings)
        loaded = load_checkpoint(out)
        found = perplexity(loaded, HELD_OUT, window=WINDOW, max_tokens=TOKENS).perplexity
        return found / of_float, report(loaded, 1024)

    return run


def report(loaded: LoadedModel, tokens: int) -> FiringReport:
    return firing_report(record_text(loaded.model, loaded.tokenizer, HELD_OUT, tokens=tokens))


def events(found: FiringReport) -> float:
    """Graded events of an input in front of which no ReLU stands, weighted by multiply-accumulates."""
    layers = [layer for layer in found.layers if layer.role != "ffn.value"]
    return sum(layer.events * layer.macs for layer in layers) / sum(layer.macs for layer in layers)


def test_the_model_is_what_its_card_says(source: Path, float_model: LoadedModel) -> None:
    card = (source / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"Held out: ([\d.]+) bits per character", card)
    assert stated is not None
    assert perplexity(float_model, HELD_OUT, window=1024).bits_per_byte == pytest.approx(float(stated[1]), abs=0.005)
    assert 2e6 <= float_model.model.num_parameters() <= 8e6


def test_assets_are_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors")) <= 18e6


def test_more_digits_are_nearer_to_float(measure: Measure) -> None:
    three, four, five = (measure(codec="multihead", layers=layers) for layers in (3, 4, 5))
    assert three[0] > four[0] >= five[0] - 1e-4
    assert abs(five[0] - 1) <= 0.01
    for fewer, more in ((three, four), (four, five)):
        assert 0.8 <= events(more[1]) - events(fewer[1]) <= 0.95


@pytest.mark.parametrize("steps", [3, 4])
def test_repetition_is_far_worse(measure: Measure, steps: int) -> None:
    assert measure(codec="repetition", time_steps=steps)[0] > 1.5


def test_gamma_sqp(measure: Measure) -> None:
    ratio, found = measure()
    assert 1 < ratio <= 1.15
    roles = found.by_role()
    value = roles.pop("ffn.value")
    assert (value["zero_share"] or 0) > 0.5  # ReLU's zeros, and what is small beside the largest
    for role, means in roles.items():
        assert 0.2 <= (means["firing_rate"] or 0) <= 0.35, role


def test_zeros_of_the_squared_relu_survive(source: Path, measure: Measure) -> None:
    kept, _ = measure()
    override = {"pattern": "ffn.value", "settings": {"inputs.spikes": "ternary", "rotation": "gamma-sqp"}}
    _, rotated = measure(overrides=[override])
    assert (rotated.by_role()["ffn.value"]["zero_share"] or 1) < 0.3
    assert kept < 1.15


def test_verify_is_clean(spiking: LoadedModel) -> None:
    result = verify(spiking, HELD_OUT, tokens=24)
    assert result.clean, result
    assert result.linears == len(FAMILIES[spiking.model.config.model_type].layout(spiking.model.config))
    assert result.rotation_error is not None


@pytest.mark.parametrize("settings", [{"codec": "multihead", "layers": 4}, {"codec": "repetition"}], ids=str)
def test_every_execution_of_every_codec(
    settings: dict[str, Any], source: Path, run_convert: Callable[..., Any], tmp_path: Path
) -> None:
    run_convert(source, tmp_path / "out", bits="4-1.58", time_steps=2, **settings)
    result = verify(load_checkpoint(tmp_path / "out"), HELD_OUT, tokens=8)
    assert result.clean and result.accumulators > 0, result


def test_generates_as_without_a_state(spiking: LoadedModel) -> None:
    text, count = generate_text(spiking, "The jury said", max_new_tokens=20)
    assert count == 20
    ids = spiking.tokenizer("The jury said", return_tensors="pt").input_ids
    with torch.inference_mode():
        for _ in range(count):
            logits = spiking.model(ids, use_cache=False).logits[:, -1]
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
    assert spiking.tokenizer.decode(ids[0]) == f"The jury said{text}"


@pytest.mark.slow
def test_scores_tasks(spiking: LoadedModel) -> None:
    result = evaluate_tasks(spiking, ["piqa", "arc_easy"], data="offline", limit=10, num_fewshot=5)
    assert [task.n for task in result.tasks] == [10, 10]
    assert all(math.isfinite(task.value) for task in result.tasks)


def test_continues_texts_of_several_lengths(spiking: LoadedModel) -> None:
    """Tasks that generate come in batches, which lm-eval pads on the left: a recurrent model must not read that."""
    prompts = ("The jury", "He had been in the house for", "It was")
    requests = [
        Instance("generate_until", {}, (prompt, {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}), index)
        for index, prompt in enumerate(prompts)
    ]
    harness = HarnessModel(spiking.model, spiking.tokenizer, 3, silent)
    expected = [generate_text(spiking, prompt, max_new_tokens=8)[0].split("\n")[0] for prompt in prompts]
    assert harness.generate_until(requests) == expected
    assert harness.batch_size == 3
