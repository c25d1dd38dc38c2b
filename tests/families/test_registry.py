"""Families are data: complete, and true to the modules of the model they describe."""

from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from spikeconv.config import LinearScheme, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES, Family, LinearSpec, Stack, find_family
from spikeconv.families.norm import LAYER, RMS, RMS_PLUS_ONE
from spikeconv.sources.presets import load_scheme

LAYERS = SimpleNamespace(num_hidden_layers=2, encoder_layers=2, decoder_layers=2, head_dim=8)


def test_supported_families() -> None:
    assert set(FAMILIES) >= {"llama", "mistral", "qwen2", "qwen3", "rwkv", "rwkv6", "rwkv7", "spikegpt", "bert", "bart"}


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_layout_is_every_linear_of_the_model(model_type: str) -> None:
    family = FAMILIES[model_type]
    config = AutoConfig.for_model(
        model_type, **{stack.count: 2 for stack in family.stacks}, vocab_size=32, **family.fixed
    )
    with torch.device("meta"):
        model = family.auto_model().from_config(config)
    assert type(model).__name__ == family.architecture
    layout = family.layout(LAYERS)
    modules = {name for name, module in model.named_modules()}
    tensors = {name for name, _ in model.named_parameters()}
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern in family.skipped:
        matched = {name for name in modules | tensors if fnmatchcase(name, pattern)}
        assert matched, pattern
        linears = {name for name in linears if not any(name == m or name.startswith(f"{m}.") for m in matched)}
    assert {linear.name for linear in layout} == linears
    for linear in layout:
        inputs = model.get_submodule(linear.name).weight.shape[1:]
        assert not linear.norm or model.get_submodule(linear.norm).weight.shape == inputs
        assert not linear.center or model.get_submodule(linear.center).bias.shape == inputs
    assert set(family.role_settings) <= {linear.role for linear in layout}


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_what_stays_float_is_counted(model_type: str) -> None:
    """Against a count of the multiplications that torch sees, where it sees them; twice the tokens, twice the work."""
    family = FAMILIES[model_type]
    config = AutoConfig.for_model(model_type, **{stack.count: 2 for stack in family.stacks}, vocab_size=32)
    macs = family.float_macs(config, 10)
    assert macs.get("head", 0) == (0 if family.auto_class == "AutoModel" else 10 * config.hidden_size * 32)
    twice = family.float_macs(config, 20)
    assert all(twice[name] == count * (4 if name == "attention" else 2) for name, count in macs.items())
    if "low rank" in macs:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        names = ("lora", "time_maa_w", "time_decay_w")
        matrices = [
            p for n, p in model.named_parameters() if p.dim() > 1 and 1 not in p.shape and any(x in n for x in names)
        ]
        assert macs["low rank"] == 10 * sum(matrix.numel() for matrix in matrices)


def test_every_linear_of_an_rwkv_has_an_input_of_its_own(recurrent: str) -> None:
    layout = FAMILIES[recurrent].layout(LAYERS)
    assert len({linear.group for linear in layout}) == len(layout)


def test_role_settings_yield_to_the_user() -> None:
    family = FAMILIES["rwkv6"]
    value = family.layout(LAYERS)[-1]
    assert value.role == "ffn.value"

    def scheme(**settings: Any) -> Any:
        return family.settle(SpikeConfig.parse(settings), LAYERS).for_linear(value.name, value.role)

    ours = scheme()
    assert (ours.inputs.symmetric, ours.rotation.kind, ours.inputs.virtual_steps, ours.bits) == (
        False,
        "none",
        15,
        "4-1",
    )
    assert scheme(steps=16).inputs.virtual_steps == 31
    user = {"pattern": "ffn.value", "settings": {"inputs.spikes": "ternary", "rotation": "gamma-sqp"}}
    assert scheme(overrides=[user]) == LinearScheme()
    for name in ("ramp-5", "ramp-6", "ramp-5-sparse", "spikingbrain-8-1.58"):  # whose steps need signed counts
        fine = scheme(**load_scheme(name))
        assert (
            fine.inputs.symmetric and fine.rotation.is_none and fine.code == SpikeConfig.parse(load_scheme(name)).code
        )
    for others in ({"codec": "multihead"}, {"bits": "4-4"}, {"bits": "16-16"}):
        assert scheme(**others) == LinearScheme.model_validate(others)


def test_groups_share_an_input() -> None:
    roles: dict[str, list[str]] = {}
    for linear in FAMILIES["llama"].layout(LAYERS):
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


def test_norms_and_native_layers_are_those_of_the_model() -> None:
    """The declared ε is the module's, the native layer's modules are all that there are, the class is the declared."""
    for model_type, family in FAMILIES.items():
        config = AutoConfig.for_model(
            model_type,
            **{stack.count: 2 for stack in family.stacks},
            vocab_size=32,
            rms_norm_eps=0.125,
            **family.fixed,
        )
        with torch.device("meta"):
            model = family.auto_model().from_config(config)
        assert type(model).__name__ == family.architecture
        for stack in family.stacks:
            layers = model.get_submodule(stack.layers)
            assert len(layers) == stack.size(config) == 2
            for linear in stack.linears:
                if linear.norm:
                    assert layers[0].get_submodule(linear.norm).variance_epsilon == getattr(config, stack.norm.epsilon)
                if linear.center:
                    assert stack.norm.name == "layer" and not stack.norm.in_encoder
                    assert isinstance(layers[0].get_submodule(linear.center), nn.LayerNorm)
            if native := stack.native:
                halves = (layers[0].get_submodule(half) for half in (native.attention, native.feed_forward))
                assert (set(layers[0]._modules), *(set(half._modules) for half in halves)) == native.modules
                names = {spec.name for spec in stack.linears}
                assert {f"{native.attention}.{n}" for n in (native.q, native.k, native.v, native.o)} <= names
                assert {f"{native.feed_forward}.{n}" for n in (native.gate, native.up, native.down)} <= names
    assert [name for name, family in FAMILIES.items() if any(stack.native for stack in family.stacks)] == [
        "llama", "mistral", "qwen2", "qwen3"
    ]  # fmt: skip


def test_kinds_of_norm() -> None:
    weight = torch.tensor([-1.0, 0.0, 0.5])
    assert RMS.gamma(weight).tolist() == [-1.0, 0.0, 0.5] and RMS_PLUS_ONE.gamma(weight).tolist() == [0.0, 1.0, 1.5]
    for kind in (RMS, RMS_PLUS_ONE):
        assert kind.gamma(torch.full((3,), kind.neutral)).tolist() == [1.0, 1.0, 1.0]
    assert RMS.in_encoder and not RMS_PLUS_ONE.in_encoder and not LAYER.in_encoder


def test_layers_count_through_all_stacks() -> None:
    linears = (LinearSpec("fc", "fc", "fc"),)
    stacks = (Stack("encoder", linears, LAYER, count="encoder_layers"), Stack("decoder", linears, RMS))
    family = Family("two", "Two", stacks, lambda config, tokens: {})
    layout = family.layout(SimpleNamespace(encoder_layers=2, num_hidden_layers=1))
    assert [(linear.name, linear.layer) for linear in layout] == [
        ("encoder.0.fc", 0),
        ("encoder.1.fc", 1),
        ("decoder.0.fc", 2),
    ]
    assert [linear.norm_kind.name for linear in layout] == ["layer", "layer", "rms"]
