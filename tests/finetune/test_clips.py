"""Thresholds: found on a text, kept in the checkpoint's settings, used by every execution."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.finetune.clips import calibrate, calibrated, clip_inputs, clip_roles, with_thresholds
from spikeconv.nn import set_execution, spike_linears
from spikeconv.record import Recorder
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


def plan_of(
    source: HfSource, mode: str = "relu", quantile: float = 0.5, roles: tuple[str, ...] = (), **settings: Any
) -> Any:
    config = clip_roles(SpikeConfig.parse(settings), find_family(source.config), mode, quantile, roles)
    return config, make_plan(source, config)


def test_attention_is_clipped_unless_roles_are_named(family: str, tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint(family))
    _, plan = plan_of(source)
    clipped = {job.linear.role for job in plan.jobs if job.scheme.clip_mode == "relu"}
    assert clipped == ({"r", "k", "v"} if family.startswith("rwkv") else {"q", "k", "v"})
    role = plan.jobs[-1].linear.role
    _, plan = plan_of(source, roles=(role,))
    assert {job.linear.role for job in plan.jobs if job.scheme.clip_mode == "relu"} == {role}


@pytest.mark.parametrize("mode", ["relu", "two-sided"])
def test_a_model_clipped_in_float_is_the_converted_one_without_rounding(
    family: str, mode: str, tiny_checkpoint: Fixture, run_convert: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    """The two ways to the same number: A⁻¹ clip(A x) in the float model, an encoder and rotated weights."""
    source = HfSource(tiny_checkpoint(family))
    config, plan = plan_of(source, mode, bits="16-16")
    model = AutoModelForCausalLM.from_pretrained(source.path).eval()
    windows = torch.randint(0, 256, (3, 16))
    thresholds = calibrate(model, plan.config, windows)
    assert len(thresholds) == 6 and all(value == value for value in thresholds.values())
    settings = with_thresholds(config, thresholds).model_dump()
    run_convert(source.path, tmp_path / "out", **settings)
    expected = logits_of(model)
    torch.testing.assert_close(logits_of(tmp_path / "out"), expected, rtol=0, atol=2e-4 * expected.abs().max().item())
    unclipped = logits_of(source.path)
    assert (expected - unclipped).abs().max() > 0.01 * unclipped.abs().max()


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
def test_more_is_silent_and_executions_agree(
    bits: str, tiny_checkpoint: Fixture, run_convert: Fixture, tokens: torch.Tensor, tmp_path: Path
) -> None:
    source = HfSource(tiny_checkpoint("qwen3"))
    shares = {}
    for quantile in (0.5, 0.8):
        config, plan = plan_of(source, quantile=quantile, bits=bits)
        path = tmp_path / str(quantile)
        plan = calibrated(source, config, plan, sample_text(), 512)
        run_convert(source.path, path, **plan.config.model_dump())
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        name = "model.layers.0.self_attn.q_proj"
        with Recorder(model) as recorder, torch.no_grad():
            expected = model(tokens).logits
        seen = recorder.statistics[name]
        shares[quantile] = int(seen.zeros) / seen.inputs
        for execution in ("dense", "events", "unfold"):
            set_execution(model, execution)
            with torch.no_grad():
                assert torch.equal(model(tokens).logits, expected)
        assert spike_linears(model)[name].scheme.clip_threshold == plan.jobs[0].scheme.clip_threshold != 0
    assert shares[0.5] > 0.4 and shares[0.8] > 0.65


def test_a_short_text_is_refused(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama", max_position_embeddings=1024))
    config, plan = plan_of(source)
    with pytest.raises(SpikeconvError, match=r"fewer than 8192 tokens.*--clip-text.*--clip-tokens"):
        calibrated(source, config, plan, sample_text(), 8192)


def test_linears_of_one_input_have_one_threshold(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("llama"))
    _, plan = plan_of(source, roles=("q", "k", "v", "gate"))
    model = AutoModelForCausalLM.from_pretrained(source.path)
    clips = clip_inputs(model, plan.config)
    assert [len(clip.linears) for clip in clips] == [3, 1, 3, 1]
