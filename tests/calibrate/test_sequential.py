"""Weights calibrated layer by layer: what the calibration runs is what the checkpoint computes, and better for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import spikeconv
from spikeconv.calibrate import sequential
from spikeconv.calibrate.balance import diagonals
from spikeconv.calibrate.importance import token_importance
from spikeconv.calibrate.moments import Moments, token_weights
from spikeconv.calibrate.sequential import Convert, Sequential
from spikeconv.calibrate.statistics import input_statistics
from spikeconv.calibrate.windows import CalibrationText
from spikeconv.config import SpikeConfig
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.conversion.work import Work
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model import ModelSource
from spikeconv.sources.model_config import hf_config
from spikeconv.verification.run import verify
from spikeconv.weights import Statistics

Fixture = Callable[..., Any]
WINDOWS = torch.randint(0, 256, (7, 24), generator=torch.Generator().manual_seed(3))
SETTINGS: list[dict[str, Any]] = [
    {"weights": "gptq"},
    {"weights": "gptq", "importance": "gradient"},
    {"weights": "qronos", "bits": "3-1", "bias_correction": "mean", "residual": True},
    {"weights": "gptaq", "rotation": "quarot", "kv_bits": 4, "skip": ["v"], "residual": True},
    {
        "weights": "qronos",
        "balance": "sqrt",
        "temporal_code": "ramp",
        "slots": 24,
        "count_scale": "rms",
        "dead_zone": 0.2,
    },
    {"weights": "gptq", "rotation": "none", "overrides": [{"pattern": "gate", "settings": {"weights": "rtn"}}]},
    {"weights": "qronos", "bits": "4-16", "overrides": [{"pattern": "o", "settings": {"weights.bits": 16}}]},
]


def making(work: Work) -> Convert:
    """What `Sequential` asks for its tensors."""

    def convert(module: str, statistics: Statistics | None) -> dict[str, Tensor]:
        tensors = work.process(f"{module}.weight", statistics).tensors
        return {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()}

    return convert


def planned(source: Any, windows: torch.Tensor = WINDOWS, **settings: Any) -> Plan:
    plan = make_plan(source, SpikeConfig.parse(settings))
    if groups := plan.balanced_groups:
        rows = {linear.name: source.shape(f"{linear.name}.weight")[0] for linear in plan.layout}
        kinds, statistics = dict.fromkeys(groups, "sqrt"), input_statistics(source, windows, groups)
        plan = replace(plan, diagonals=diagonals(statistics, kinds, plan.layout, rows))
    return replace(plan, calibration=CalibrationText(windows, {"text": "random", "tokens": windows.numel()}))


def run(source: Any, plan: Plan) -> Sequential:
    """A calibration, to its end."""
    work = Work(plan.balanced(source, None), plan, None)
    config = hf_config(source.config)
    assert plan.calibration is not None
    source, windows = plan.balanced(source, None), plan.calibration.windows
    importance = None
    if any(job.scheme.weights.importance == "gradient" for job in plan.jobs):
        importance = token_importance(source, plan.layout, {linear.group for linear in plan.layout}, windows)
    networks = Sequential(plan.family, config, plan.config, work.loaded, windows, importance)
    for _ in networks.convert(making(work)):
        pass
    return networks


def test_what_is_calibrated_is_what_the_checkpoint_computes(
    transformer: str, tiny_checkpoint: Fixture, tmp_path: Path
) -> None:
    """The float stream ends where the float model does, the spiking one where the loaded checkpoint does."""
    source = HfSource(tiny_checkpoint(transformer))
    plain = AutoModelForCausalLM.from_pretrained(source.path)
    for index, settings in enumerate(SETTINGS if transformer == "qwen2" else SETTINGS[:3]):
        plan = planned(source, **settings)
        networks = run(source, plan)
        convert(source, plan, tmp_path / str(index))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(index))
        with torch.no_grad():
            for own, network in ((plain, networks.float), (model, networks.spiking)):
                if network is None:  # nothing looks at the float network
                    assert settings["weights"] == "gptq"
                    continue
                ends: list[torch.Tensor] = []
                own.model.norm.register_forward_pre_hook(lambda _, arguments, ends=ends: ends.append(arguments[0]))
                own(WINDOWS, use_cache=False)
                folded = settings.get("rotation") == "quarot" or "balance" in settings
                tolerance = 2e-4 if own is plain and folded else 2e-5
                limit = tolerance * float(ends[0].abs().max())
                torch.testing.assert_close(
                    network.hidden,
                    ends[0],
                    rtol=0,
                    atol=limit,
                    msg=str(settings),
                )


def test_the_same_text_gives_the_same_bytes(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    for name in "ab":
        torch.manual_seed(ord(name))
        convert(source, planned(source, weights="qronos", bias_correction="mean"), tmp_path / name)
    other = WINDOWS.flip(0)
    convert(source, planned(source, other, weights="qronos", bias_correction="mean"), tmp_path / "c")
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a) or torch.equal(other, WINDOWS)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_what_is_kept_saves_time_only(tiny_checkpoint: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    kept = run(source, planned(source, weights="qronos"))
    monkeypatch.setattr(sequential, "KEPT_BYTES", 0)
    again = run(source, planned(source, weights="qronos"))
    for a, b in ((kept.float, again.float), (kept.spiking, again.spiking)):
        assert a is not None and b is not None and torch.equal(a.hidden, b.hidden)


def test_in_memory_and_from_a_model(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    path = tiny_checkpoint("mistral")
    convert(HfSource(path), planned(HfSource(path), weights="gptq"), tmp_path / "disk")
    source = ModelSource(AutoModelForCausalLM.from_pretrained(path))
    found = convert_in_memory(source, planned(source, weights="gptq"))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "disk")
    with torch.no_grad():
        assert torch.equal(found(WINDOWS).logits, expected(WINDOWS).logits)


def test_one_layer_of_each_network_is_in_memory(tiny_checkpoint: Fixture) -> None:
    """Whenever a group is done, what has memory is a layer of each and the tables of positions."""
    source = HfSource(tiny_checkpoint("llama", num_hidden_layers=5))
    plan = planned(source, weights="qronos")
    work = Work(source, plan, None)
    networks = Sequential(plan.family, hf_config(source.config), plan.config, work.loaded, WINDOWS)
    names = [name for name in source.names() if name.startswith("model.layers.0.")]
    layer = 4 * sum(source.load(name).numel() for name in names)
    seen = []
    for _ in networks.convert(making(work)):
        for network in (networks.float, networks.spiking):
            assert network is not None
            tensors = [*network.model.parameters(), *network.model.buffers()]
            seen.append(sum(tensor.nbytes for tensor in tensors if not tensor.is_meta))
    assert len(seen) == 2 * networks.groups == 40
    assert layer <= max(seen) < 1.1 * layer
    tensors = [t for n in (networks.float, networks.spiking) if n is not None for t in n.model.parameters()]
    assert all(tensor.is_meta for tensor in tensors)


def test_the_network_is_better_on_a_text_that_was_not_read(tiny_checkpoint: Fixture) -> None:
    """Hidden states behind the last layer against the float model's, at 3 bits: less than 0.9 of RTN."""
    source = HfSource(tiny_checkpoint("llama"))
    plain = AutoModelForCausalLM.from_pretrained(source.path)
    generator = torch.Generator().manual_seed(8)
    text, held_out = (torch.randint(0, 256, (n, 32), generator=generator) for n in (96, 16))
    errors = {}
    with torch.no_grad():
        expected = plain.model(held_out).last_hidden_state
        for method in ("rtn", "gptq", "gptaq", "qronos"):
            model = convert_in_memory(source, planned(source, text, weights=method, bits="3-8"))
            errors[method] = float((model.model(held_out).last_hidden_state - expected).norm() / expected.norm())
    assert all(errors[method] < 0.9 * errors["rtn"] for method in errors if method != "rtn"), errors


def test_the_sums_are_those_of_the_tokens() -> None:
    """In batches or at once, H in blocks or whole; a token far longer than the others counts like one at the cap."""
    counts = torch.randn(50, 700).double()
    floats, lack = counts + 0.1 * torch.randn_like(counts), torch.randn(50, 5).double()
    weights = token_weights(counts)
    assert torch.equal(weights, torch.ones(50, 1).double())
    sums = Moments(700, True, 5)
    for part in (slice(0, 20), slice(20, 50)):
        sums.add(counts[part].float(), floats[part].float(), lack[part].float())
    found = sums.statistics().double()
    expected = {
        "hessian": counts.mT @ counts,
        "cross": counts.mT @ (floats - counts),
        "residual": counts.mT @ lack,
        "counts": counts.sum(0),
        "errors": (floats - counts).sum(0),
        "residuals": lack.sum(0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=1e-4, msg=name)
    assert found.weight == 50
    counts[7] *= 1000
    assert token_weights(counts)[7] * counts[7].norm() == pytest.approx(3 * float(counts.norm(dim=1).median()))
    lack[9] *= 100
    both = token_weights(counts, lack)
    assert both[7] == token_weights(counts)[7] and both[9] * lack[9].norm() < 3.01 * lack.norm(dim=1).median()
    assert not token_weights(torch.zeros(3, 4)).isnan().any()


def test_record_and_verification(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """The record says what was done; `verify` holds every weight to its recorded distance from the source."""
    source = HfSource(tiny_checkpoint("qwen2"))
    settings = {"weights": "gptq", "bits": "4-1", "bias_correction": "mean", "skip": ["k"], "residual": True}
    overrides = [{"pattern": "up", "settings": {"weights.method": "rtn", "bias_correction": "none"}}]
    path = tmp_path / "out"
    done = convert(source, planned(source, **settings, overrides=overrides), path).layers
    record = json.loads((path / "spikeconv.json").read_text())
    assert record["calibration"] == {"text": "random", "tokens": WINDOWS.numel()}
    for name, layer in record["layers"].items():
        result = done[int(name.split(".")[2])]
        assert layer.get("output_error") == result.output_error.get(layer["role"]), name
        assert ("output_error" in layer) == (layer["role"] != "up")
    loaded = load_checkpoint(path)
    found = verify(loaded, "What was converted is what was there.", tokens=8)
    assert found.clean and found.calibrated == 10 and found.linears == 12, found
    assert 0.05 < (found.calibrated_error or 0) < 0.6 and 0.4 < (found.rounding_error or 0) <= 0.501

    tensors = load_file(path / "model.safetensors")
    for name, change in (("weight", lambda t: t.flip(0)), ("weight_scale", lambda t: t * 1.05)):
        broken = {**tensors}
        key = f"model.layers.0.mlp.down_proj.{name}"
        broken[key] = change(tensors[key])
        save_file(broken, path / "model.safetensors", metadata={"format": "pt"})
        result = verify(load_checkpoint(path), "What was converted is what was there.", tokens=8)
        assert result.different_weights == ["model.layers.0.mlp.down_proj"]


def test_what_cannot_be_calibrated(tiny_checkpoint: Fixture, recurrent: str, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint(recurrent))
    with pytest.raises(SpikeconvError, match=r"weights=gptq is impossible: .*can only be rtn"):
        planned(source, weights="gptq")
    assert make_plan(source, SpikeConfig.parse({"weights": "gptq", "bits": "16-1.58"})).jobs  # float weights
    llama = HfSource(tiny_checkpoint("llama"))
    with pytest.raises(SpikeconvError, match="weights=gptq needs a calibration text"):
        convert(llama, make_plan(llama, SpikeConfig.parse({"weights": "gptq"})), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())


def test_a_text_is_all_that_it_takes(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """From Python, with the balance too; what was read stands in the record, and a text too short is refused."""
    (tmp_path / "text.txt").write_text("It is a truth universally acknowledged. " * 60)
    settings = {"weights": "gptq", "balance": "sqrt", "calibration": str(tmp_path / "text.txt"), "calibration_seed": 4}
    path = tiny_checkpoint("qwen3")
    spikeconv.convert(path, tmp_path / "out", **settings, calibration_tokens=512)
    record = json.loads((tmp_path / "out/spikeconv.json").read_text())
    assert record["calibration"].items() >= {"tokens": 512, "window": 64, "seed": 4}.items()
    assert record["config"]["weights"]["method"] == "gptq" and record["config"]["balance"] == "sqrt"
    assert record["layers"]["model.layers.1.mlp.down_proj"]["damping"] == 0.1
    found = spikeconv.verify(tmp_path / "out", tokens=8)
    assert found.clean and found.calibrated == found.linears == 14, found
    in_memory = spikeconv.convert(
        AutoModelForCausalLM.from_pretrained(path),
        tokenizer=AutoTokenizer.from_pretrained(path),
        **settings,
        calibration_tokens=512,
    )
    with torch.no_grad():
        assert torch.equal(in_memory(WINDOWS).logits, spikeconv.load(tmp_path / "out")(WINDOWS).logits)
    with pytest.raises(SpikeconvError, match="fewer than the 65,536 asked for"):
        spikeconv.convert(path, tmp_path / "short", **settings)
    assert not (tmp_path / "short").exists()
