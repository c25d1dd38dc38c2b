"""Thresholds: found on a text, kept in the checkpoint, used by every execution."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRANSFORMERS
from transformers import AutoModelForCausalLM

from spikeconv.calibrate.clipping import clip_roles
from spikeconv.calibrate.thresholds import calibrate, calibrate_source, clip_inputs
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.nn import set_execution, spike_linears
from spikeconv.record.recorder import Recorder
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


def plan_of(
    source: HfSource, mode: str = "relu", quantile: float = 0.5, roles: tuple[str, ...] = (), **settings: Any
) -> Plan:
    config = clip_roles(SpikeConfig.parse(settings), find_family(source.config), mode, quantile, roles)
    return make_plan(source, config)


def test_attention_is_clipped_unless_roles_are_named(family: str, tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint(family))
    plan = plan_of(source)
    clipped = {job.linear.role for job in plan.jobs if job.scheme.clip is not None}
    assert clipped == ({"r", "k", "v"} if family not in TRANSFORMERS else {"q", "k", "v"})
    role = plan.jobs[-1].linear.role
    plan = plan_of(source, roles=(role,))
    assert {job.linear.role for job in plan.jobs if job.scheme.clip is not None} == {role}


@pytest.mark.parametrize("mode", ["relu", "two-sided"])
def test_a_model_clipped_in_float_is_the_converted_one_without_rounding(
    family: str, mode: str, tiny_checkpoint: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    """The two ways to the same number: A⁻¹ clip(A x) in the float model, an encoder and rotated weights."""
    source = HfSource(tiny_checkpoint(family))
    plan = plan_of(source, mode, bits="16-16")
    model = AutoModelForCausalLM.from_pretrained(source.path).eval()
    windows = torch.randint(0, 256, (3, 16))
    thresholds = calibrate(model, plan.config, windows)
    assert len(thresholds) == 6 and all(value == value for value in thresholds.values())
    convert(source, plan.with_thresholds(thresholds), tmp_path / "out")
    expected = logits_of(model)
    torch.testing.assert_close(logits_of(tmp_path / "out"), expected, rtol=0, atol=2e-4 * expected.abs().max().item())
    unclipped = logits_of(source.path)
    assert (expected - unclipped).abs().max() > 0.01 * unclipped.abs().max()


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
def test_more_is_silent_and_executions_agree(
    bits: str, tiny_checkpoint: Fixture, tokens: torch.Tensor, tmp_path: Path
) -> None:
    source = HfSource(tiny_checkpoint("qwen3"))
    shares = {}
    for quantile in (0.5, 0.8):
        plan = plan_of(source, quantile=quantile, bits=bits)
        path = tmp_path / str(quantile)
        plan = plan.with_thresholds(calibrate_source(source, plan.config, sample_text(), 512))
        convert(source, plan, path)
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        name = "model.layers.0.self_attn.q_proj"
        with Recorder(model) as recorder, torch.no_grad():
            expected = model(tokens).logits
        seen = recorder.statistics[name]
        shares[quantile] = int(seen.zeros) / seen.inputs
        for execution in ("dense", "events", "unfold"):
            set_execution(model, execution)
            with torch.no_grad():  # as beside a recorder: by the modules
                assert torch.equal(model(tokens).logits, expected)
        assert spike_linears(model)[name].input_threshold.item() == plan.jobs[0].threshold != 0
    assert shares[0.5] > 0.4 and shares[0.8] > 0.65


def test_a_short_text_is_refused(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama", max_position_embeddings=1024))
    plan = plan_of(source)
    with pytest.raises(SpikeconvError, match=r"fewer than 8192 tokens.*--clip-text.*--clip-tokens"):
        calibrate_source(source, plan.config, sample_text(), 8192)


def test_linears_of_one_input_have_one_threshold(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    plan = plan_of(source, roles=("q", "k", "v", "gate"))
    model = AutoModelForCausalLM.from_pretrained(source.path)
    clips = clip_inputs(model, plan.config)
    assert [len(clip.linears) for clip in clips] == [3, 1, 3, 1]


def clipped(source: HfSource, path: Path) -> Path:
    plan = plan_of(source)
    convert(source, plan.with_thresholds({job.linear.name: 0.25 for job in plan.jobs}), path)
    return path


def test_thresholds_are_tensors_that_stay_as_they_are(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """float32 [1] in every clipped linear and in no other, no setting; exact in a model of another dtype, and saved."""
    path = clipped(HfSource(tiny_checkpoint("llama")), tmp_path / "out")
    tensors = load_file(path / "model.safetensors")
    found = {name: tensor for name, tensor in tensors.items() if name.endswith("input_threshold")}
    assert {name.split(".")[-2] for name in found} == {"q_proj", "k_proj", "v_proj"} and len(found) == 6
    assert all(t.dtype == torch.float32 and t.tolist() == [0.25] for t in found.values())
    assert "threshold" not in (path / "config.json").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(torch.float16)
    model.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in found.items())


def test_a_changed_threshold_changes_the_counts(tiny_checkpoint: Fixture, tokens: torch.Tensor, tmp_path: Path) -> None:
    """Also after the first forward: nothing remembers the one before."""
    model = AutoModelForCausalLM.from_pretrained(clipped(HfSource(tiny_checkpoint("llama")), tmp_path / "out")).eval()
    with torch.no_grad():
        before = model(tokens).logits
        for linear in spike_linears(model).values():
            if linear.input_threshold is not None:
                linear.input_threshold.fill_(0.5)
        inplace = model(tokens).logits
        for linear in spike_linears(model).values():
            if linear.input_threshold is not None:
                linear.input_threshold = torch.tensor([0.25])
        assert torch.equal(model(tokens).logits, before) and not torch.equal(inplace, before)


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_linears_of_one_input_with_other_thresholds_are_refused(
    value: float, tiny_checkpoint: Fixture, tmp_path: Path
) -> None:
    path = clipped(HfSource(tiny_checkpoint("llama")), tmp_path / "out")
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.input_threshold"].fill_(value)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpikeconvError, match=r"layers\.1\.self_attn\.v_proj\.input_threshold (is|holds)"):
        AutoModelForCausalLM.from_pretrained(path)


def test_a_clip_without_a_threshold_is_refused(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    with pytest.raises(SpikeconvError, match=r"layers\.0\.self_attn\.q_proj.*not calibrated"):
        convert(source, plan_of(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()
