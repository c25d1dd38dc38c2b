"""Refitted weights are the least-squares ones, and bring a clipped model nearer to the float one."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from spikeconv.calibrate.clipping import clip_roles
from spikeconv.calibrate.thresholds import clip_inputs
from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.families import find_family
from spikeconv.finetune.refit import RIDGE, refit
from spikeconv.nn.clip import MembraneClip
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]
SIZE = 24


class OneLinear(nn.Module):
    """`model(input_ids=…)` of a table of inputs and one linear, as a language model is called."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs, self.linear = inputs, nn.Linear(SIZE, 5)
        self.device = inputs.device

    def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.linear(self.inputs[input_ids])  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["relu", "two-sided"])
def test_no_other_weight_is_nearer(mode: str) -> None:
    inputs = torch.randn(400, SIZE) @ torch.randn(SIZE, SIZE)
    model = OneLinear(inputs)
    clip = MembraneClip(SIZE, SpikeConfig.parse({"inputs.clip": {"mode": mode, "quantile": 0.5}}))
    clip.attach("linear", model.linear)
    original = model.linear.weight.detach().clone()
    refit(model, [clip], torch.arange(400)[None])
    clipped = clip(inputs)  # at the threshold that was found, which the one window was clipped at, too
    best = torch.linalg.lstsq(clipped.double(), inputs.double()).solution  # x ≈ x' Mᵀ

    def error(weight: torch.Tensor) -> float:
        return float(
            (clipped.double() @ weight.detach().double().mT - inputs.double() @ original.double().mT).square().sum()
        )

    least = error((best @ original.double().mT).mT)
    assert error(original) > 2 * least
    assert least <= error(model.linear.weight) <= (1 + 20 * RIDGE) * least


@pytest.mark.parametrize("mode", ["relu", "shifted", "two-sided"])
def test_every_family_comes_nearer(family: str, mode: str, tiny_checkpoint: Fixture, tokens: torch.Tensor) -> None:
    """Seen behind the linears of the first layer, whose inputs no other clip has changed."""
    source = HfSource(tiny_checkpoint(family))
    config = clip_roles(SpikeConfig(), find_family(source.config), mode, 0.6, ())
    model = AutoModelForCausalLM.from_pretrained(source.path).eval()
    clips = clip_inputs(model, make_plan(source, config).config)
    names = [name for clip in clips for name in clip.linears if ".0." in name]
    outputs: dict[str, torch.Tensor] = {}
    for name in names:
        keep = functools.partial(outputs.__setitem__, name)
        model.get_submodule(name).register_forward_hook(lambda module, args, y, keep=keep: keep(y))

    def run() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            model(tokens)
        return dict(outputs)

    for clip in clips:
        clip.observer = lambda x, clipped: None
    exact = run()
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    refit(model, clips, torch.randint(0, 256, (32, 32)))
    refitted = run()
    for name, weight in weights.items():
        model.get_submodule(name).weight.data.copy_(weight)
    clipped = run()
    assert len(names) == 3
    for name in names:
        assert (refitted[name] - exact[name]).norm() < 0.8 * (clipped[name] - exact[name]).norm()
