"""The plan says what is converted and what is not, and refuses to convert nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model_config import hf_config


@pytest.fixture
def plan(tiny_checkpoint: Callable[..., Path]) -> Callable[..., Plan]:
    def make(family: str = "llama", **settings: Any) -> Plan:
        return make_plan(HfSource(tiny_checkpoint(family)), SpikeConfig.parse(settings))

    return make


def test_every_linear_has_a_job_with_its_shape(family: str, plan: Callable[..., Plan], tiny_checkpoint: Any) -> None:
    made, source = plan(family), HfSource(tiny_checkpoint(family))
    assert [job.linear for job in made.jobs] == FAMILIES[family].layout(hf_config(source.config))
    for job in made.jobs:
        assert (job.out_features, job.in_features) == source.shape(f"{job.linear.name}.weight")
    assert made.skipped == FAMILIES[family].skipped and all(made.skipped.values())


def test_skips_and_overrides(plan: Callable[..., Plan]) -> None:
    made = plan(
        skip=("down", "*.0.self_attn.q_proj"),
        overrides=({"pattern": "model.layers.1.*", "settings": {"bits": "6-1.58"}},),
    )
    skipped = {"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"}
    assert set(made.skipped) - {"model.embed_tokens", "lm_head"} == skipped
    assert all("--skip" in made.skipped[name] for name in skipped)
    assert {job.scheme.inputs.virtual_steps for job in made.jobs if job.linear.layer == 1} == {32}
    assert {job.scheme.inputs.virtual_steps for job in made.jobs if job.linear.layer == 0} == {8}
    assert sum(made.roles().values()) == len(made.jobs) == 11


def test_rotations_say_which_hadamard(plan: Callable[..., Plan]) -> None:
    assert plan("llama").rotations() == {72: "36·2", 100: "100"}
    assert plan("mistral").rotations() == {90: "45 blocks of 2", 96: "12·8"}
    assert plan("llama", rotation="none").rotations() == {}


@pytest.mark.parametrize(("bits", "per_weight", "per_row"), [("4-1.58", 4, 32), ("6-1.58", 6, 32), ("4-1", 4, 64)])
def test_bits_per_weight_counts_scales_and_padding(
    bits: str, per_weight: int, per_row: int, plan: Callable[..., Plan]
) -> None:
    made = plan(bits=bits)
    rows = sum(job.out_features for job in made.jobs)
    padded = sum(job.out_features * -(-job.in_features // 8) * 8 for job in made.jobs)
    assert made.bits_per_weight == pytest.approx((padded * per_weight + rows * per_row) / made.weights, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"skip": ("q", "k", "v", "o", "gate", "up", "down")}, ["Nothing to convert", "14 linears"]),
        ({"skip": ("model.*",)}, ["Nothing to convert"]),
        ({"skip": ("gate_proj",)}, ["--skip gate_proj", "matches no linear"]),
        (
            {"overrides": ({"pattern": "*.7.*", "settings": {"weights.bits": 8}},)},
            ["--override *.7.*", "matches no linear"],
        ),
    ],
)
def test_zero_converted_and_zero_matched_are_errors(
    settings: dict[str, Any], words: list[str], plan: Callable[..., Plan]
) -> None:
    with pytest.raises(SpikeconvError) as caught:
        plan(**settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_quarot_is_refused_with_the_reason(recurrent: str, plan: Callable[..., Plan]) -> None:
    with pytest.raises(SpikeconvError, match=r"quarot is impossible with \w+: .*token shift"):
        plan(recurrent, rotation="quarot")


def test_a_family_s_package_is_asked_for(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikeconv.sources.model_config.CONFIG_MAPPING", {})
    with pytest.raises(SpikeconvError, match=r"RWKV7ForCausalLM needs a package: pip install rwkv7-hf"):
        plan("rwkv7")


def test_quarot_folds_the_norms_in_front_of_jobs(plan: Callable[..., Plan]) -> None:
    assert plan().folded_norms() == {}
    folded = plan(rotation="quarot", skip=("q", "gate", "up")).folded_norms()
    layers = ("model.layers.0", "model.layers.1")
    assert folded == {
        f"{layer}.self_attn.{x}_proj.weight": f"{layer}.input_layernorm.weight" for layer in layers for x in "qkv"
    }


def test_nothing_is_read_for_a_plan(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    for way in ("load", "blocks"):
        monkeypatch.setattr(HfSource, way, lambda self, name, *rows: pytest.fail(f"{name} was read"))
    assert plan().weights == sum(job.weights for job in plan().jobs) > 0
    assert torch.get_default_device() == torch.device("cpu")
