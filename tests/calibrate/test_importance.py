"""What tokens count in calibrated weights: as much as the loss asks of their outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.calibrate.gradients import SEED
from spikeconv.calibrate.importance import token_importance
from spikeconv.calibrate.moments import CAP, Moments
from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


def test_it_is_the_gradient_of_the_loss(transformer: str, tiny_checkpoint: Fixture) -> None:
    """Against one backward of the whole model, for every group of its linears; batches and layers apart."""
    path = tiny_checkpoint(transformer)
    source = HfSource(path)
    layout = make_plan(source, SpikeConfig()).layout
    windows = torch.randint(0, source.config["vocab_size"], (6, 16), generator=torch.Generator().manual_seed(3))
    groups = {linear.group for linear in layout}
    found = token_importance(source, layout, groups, windows, batch_tokens=32)

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    outputs: dict[str, list[torch.Tensor]] = {}

    def keep(group: str, output: torch.Tensor) -> None:
        output.retain_grad()
        outputs.setdefault(group, []).append(output)

    for linear in layout:
        model.get_submodule(linear.name).register_forward_hook(lambda _, __, y, group=linear.group: keep(group, y))
    logits = model(windows).logits.flatten(0, 1)
    generator = torch.Generator().manual_seed(SEED)
    parts = [torch.multinomial(part.detach().softmax(-1), 1, generator=generator) for part in logits.split(32)]
    torch.nn.functional.cross_entropy(logits, torch.cat(parts)[:, 0], reduction="sum").backward()
    assert found.keys() == groups
    for group, importance in found.items():
        squares = [output.grad.square().sum(-1) for output in outputs[group] if output.grad is not None]
        norms = torch.stack(squares).sum(0).sqrt()
        assert len(squares) == sum(linear.group == group for linear in layout)
        wanted = (norms / norms.median()).clamp(max=CAP)
        torch.testing.assert_close(importance, wanted, rtol=2e-3, atol=1e-5)


def test_a_token_of_importance_zero_is_no_token_and_one_of_two_is_four() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator))  # no norm to be capped
    importance = torch.tensor([0.0, 1.0, 2.0] * 4)
    weighted, plain = Moments(8, False), Moments(8, False)
    weighted.add(x, importance=importance)
    plain.add(torch.cat([x[importance == 1], *[x[importance == 2]] * 4]))
    ours, theirs = weighted.statistics(), plain.statistics()
    torch.testing.assert_close(ours.hessian, theirs.hessian)
    assert ours.weight == theirs.weight == 20


def test_it_needs_a_calibrated_method(run_convert: Fixture, tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    with pytest.raises(SpikeconvError, match="importance needs a calibrated method"):
        run_convert(tiny_checkpoint("llama"), tmp_path / "out", importance="gradient")
