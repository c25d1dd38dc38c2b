"""Other virtual steps of a loaded model are those that a conversion with them gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import spikeconv
from spikeconv.errors import SpikeconvError
from spikeconv.integrations.steps import set_virtual_steps
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def test_equals_a_conversion_with_that_many_steps(family: str, converted: Fixture, logits_of: Fixture) -> None:
    """Also after forwards with the old number, whose plans must not live on."""
    model = load(converted(family))
    before = logits_of(model)
    for steps in (32, 2, 8):
        set_virtual_steps(model, steps)
        assert torch.equal(logits_of(model), logits_of(converted(family, steps=steps))), steps
    assert torch.equal(logits_of(model), before)


def test_binary_counts_keep_their_row_sums(converted: Fixture, logits_of: Fixture) -> None:
    model = load(converted("llama", bits="4-1"))
    set_virtual_steps(model, 63)
    assert torch.equal(logits_of(model), logits_of(converted("llama", bits="4-1", steps=63)))


def test_what_an_override_says_stays(converted: Fixture) -> None:
    overrides = ({"pattern": "down", "settings": {"bits": "4-1.58", "steps": 4}},)
    model = load(converted("llama", overrides=overrides))
    set_virtual_steps(model, 64)
    found = {name: linear.scheme.inputs.virtual_steps for name, linear in spike_linears(model).items()}
    assert {steps for name, steps in found.items() if "down_proj" in name} == {4}
    assert {steps for name, steps in found.items() if "down_proj" not in name} == {64}


def test_is_saved(converted: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    model = load(converted("qwen3"))
    set_virtual_steps(model, 16)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(tmp_path / "saved"), logits_of(converted("qwen3", steps=16)))


def test_impossible_steps_change_nothing(converted: Fixture, tiny_checkpoint: Fixture, logits_of: Fixture) -> None:
    for settings, steps, words in (
        ({}, 9, "steps with ternary spikes must be one of"),
        ({}, 0, "must be one of"),
        ({}, -8, "positive whole number"),
        ({"bits": "4-1"}, 16, "steps with binary spikes must be one of"),
        ({"bits": "4-4"}, 8, "needs ternary or binary spikes, not 'integer'"),
        ({"bits": "4-16"}, 8, "needs ternary or binary spikes"),
        ({"codec": "multihead"}, 8, "time_steps"),
    ):
        model = load(converted("llama", **settings))
        before = logits_of(model)
        with pytest.raises(SpikeconvError, match=words):
            set_virtual_steps(model, steps)
        assert torch.equal(logits_of(model), before), (settings, steps)
    with pytest.raises(SpikeconvError, match="no converted linear"):
        set_virtual_steps(load(tiny_checkpoint("llama")), 8)


def test_a_model_without_its_head(converted: Fixture, tokens: torch.Tensor) -> None:
    """It has other names of modules than the checkpoint; overrides are found by the checkpoint's."""
    overrides = ({"pattern": "model.layers.0.mlp.down_proj", "settings": {"bits": "4-1.58", "steps": 4}},)
    path = converted("llama", overrides=overrides)
    model, whole = AutoModel.from_pretrained(path).eval(), load(path)
    for each in (model, whole):
        set_virtual_steps(each, 32)
    assert torch.equal(model(tokens)[0], whole.model(tokens)[0])
    assert model.layers[0].mlp.down_proj.scheme.inputs.virtual_steps == 4
    with spikeconv.record_spikes(model) as spikes:
        model(tokens)
    assert {name: layer.role for name, layer in spikes.items()}["layers.1.mlp.down_proj"] == "down"
    with pytest.raises(SpikeconvError, match="load it as LlamaForCausalLM"):
        spikeconv.verify(model)
