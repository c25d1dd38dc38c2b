"""vLLM's linears compute what transformers' do, bit for bit: every family, codec and layout, compiled too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import spikeconv
from spikeconv.nn import SpikeLinear
from spikeconv.serving.layers import FUSED

Load = Callable[..., nn.Module]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "mistral": ("mistral", {"sliding_window": 32}, {}),
    "qwen2": ("qwen2", {}, {}),  # biases of q, k, v
    "qwen3": ("qwen3", {}, {}),
    "every bias": ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "quarot": ("llama", {}, {"rotation": "quarot"}),
    "no rotation": ("llama", {}, {"rotation": "none"}),
    "ternary weights": ("llama", {}, {"bits": "1.58-1.58"}),
    "binary spikes": ("llama", {}, {"bits": "4-1"}),
    "eight bits": ("llama", {}, {"bits": "8-8"}),
    "float inputs": ("llama", {}, {"bits": "4-16"}),
    "ramp, balanced": ("llama", {}, {"scheme": "ramp-5"}),
    "multihead": ("llama", {}, {"inputs": {"codec": "multihead"}, "weights": {"bits": 4}}),
    "repetition": ("llama", {}, {"inputs": {"codec": "repetition"}}),
    "gif": ("llama", {}, {"inputs": {"codec": "gif"}, "bits": "4-4"}),
    "clipped": ("llama", {}, {"inputs": {"clip": {"quantile": 0.5}}}),
    "some skipped": ("llama", {}, {"skip": ["q", "k", "v"], "overrides": {"down": {"bits": "6-1.58"}}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fused_linear_is_its_members(case: str, tiny: Callable[..., Path], load: Load) -> None:
    family, fields, settings = CASES[case]
    checkpoint = tiny(family, fields, **settings)
    model, reference = load(checkpoint), dict(spikeconv.load(checkpoint).named_modules())
    compared = 0
    for name, layer in model.named_modules():
        above, _, last = name.rpartition(".")
        if not hasattr(layer, "quant_method") or not last.endswith("_proj"):
            continue
        members = [reference[f"{above}.{member}"] for member in FUSED.get(last, [last])]
        spiking = isinstance(members[0], SpikeLinear)
        assert hasattr(layer, "spikes") == spiking, name
        if not spiking:
            continue
        members[0].group.encoder.norm = None  # here vLLM's own norm is in front
        for tokens in (1, 33):
            x = torch.randn(tokens, layer.input_size)
            with torch.no_grad():
                expected = torch.cat([member(x) for member in members], -1)
                same(layer(x)[0], expected, settings)
        if ".0." in name:
            with torch.no_grad():
                same(compiled(layer, x), expected, settings)
        compared += 1
    assert compared == (6 if "skip" in settings else 8)


def same(got: torch.Tensor, expected: torch.Tensor, settings: dict[str, Any]) -> None:
    """Equal; where inputs or weights are float, but for the order of sums."""
    if "16" in str(settings.get("bits")):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(got, expected)


def compiled(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a layer gives in one graph, for any number of tokens, with other operators around it."""
    torch._dynamo.reset()
    result: torch.Tensor = torch.compile(lambda y: layer(y * 1.0)[0] + 0.0, fullgraph=True, dynamic=True)(x)
    return result


def test_what_stays_float_may_be_half(tiny: Callable[..., Path], load: Load) -> None:
    model = load(tiny(), dtype="bfloat16")
    layer = model.get_submodule("model.layers.0.mlp.gate_up_proj")
    assert layer.spikes.weight_scale.dtype == torch.float32
    assert layer(torch.randn(3, 128, dtype=torch.bfloat16))[0].dtype == torch.bfloat16
