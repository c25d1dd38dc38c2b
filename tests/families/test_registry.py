"""Families are data: complete, and true to the modules of the model they describe."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES, find_family


def test_supported_families() -> None:
    assert set(FAMILIES) >= {"llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_layout_is_every_linear_of_the_model(model_type: str) -> None:
    family = FAMILIES[model_type]
    config = AutoConfig.for_model(model_type, num_hidden_layers=2, vocab_size=32)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == family.architecture
    layout = family.layout(2)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {linear.name for linear in layout} == linears - set(family.skipped)
    assert set(family.skipped) <= {name for name, _ in model.named_modules()}
    for linear in layout:
        weight = model.get_submodule(linear.name).weight
        if linear.norm:
            assert model.get_submodule(linear.norm).weight.shape == weight.shape[1:]


def test_groups_share_an_input() -> None:
    roles: dict[str, list[str]] = {}
    for linear in FAMILIES["llama"].layout(2):
        roles.setdefault(linear.group, []).append(linear.role)
    assert sorted(roles.values()) == sorted([["q", "k", "v"], ["o"], ["gate", "up"], ["down"]] * 2)


@pytest.mark.parametrize(
    ("config", "near"),
    [
        ({"model_type": "llama4", "architectures": ["Llama4ForCausalLM"]}, "LlamaForCausalLM"),
        ({"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"]}, "Qwen2ForCausalLM"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, None),
        ({"model_type": "mamba"}, None),
        ({}, None),
    ],
)
def test_unknown_architecture_lists_the_supported_ones(config: dict[str, Any], near: str | None) -> None:
    with pytest.raises(SpikeconvError) as caught:
        find_family(config)
    sentence = str(caught.value)
    assert all(family.architecture in sentence for family in FAMILIES.values())
    assert config.get("architectures", [config.get("model_type", "nothing")])[0] in sentence
    assert near is None or f"Did you mean {near}?" in sentence
