"""Choices for a budget are the best there are for their spikes; offers are what their equation says."""

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.calibrate.budget import at_price, mean_spikes, total_error, within_spikes
from spikeconv.calibrate.gradients import SEED
from spikeconv.calibrate.offers import Candidate, Menu, Offer, offers_of
from spikeconv.codes import code_of
from spikeconv.config import SpikeConfig
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear
from spikeconv.nn import Encoder
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


def random_menus(seed: int) -> list[Menu]:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(4, 5, 2, generator=generator, dtype=torch.float64).tolist()
    sizes = torch.randint(1, 9, (4,), generator=generator).tolist()
    return [
        Menu((f"l{group}",), macs, tuple(Offer({"number": i}, spikes, error) for i, (spikes, error) in enumerate(rows)))
        for group, (macs, rows) in enumerate(zip(sizes, numbers, strict=True))
    ]


def everything(menus: Sequence[Menu]) -> list[tuple[float, float]]:
    """Spikes and error of every choice."""
    choices = product(*(menu.offers for menu in menus))
    return [(mean_spikes(menus, choice), total_error(choice)) for choice in choices]


def test_no_choice_with_as_few_spikes_has_less_error() -> None:
    for seed in range(12):
        menus = random_menus(seed)
        choices = everything(menus)
        fewest = min(spikes for spikes, _ in choices)
        most = max(spikes for spikes, _ in choices)
        for share in (0.0, 0.2, 0.5, 0.8, 1.0):
            budget = fewest + share * (most - fewest) + 1e-12
            chosen = within_spikes(menus, budget)
            spikes, error = mean_spikes(menus, chosen), total_error(chosen)
            assert spikes <= budget
            assert error <= min(e for s, e in choices if s <= spikes + 1e-12) + 1e-12, (seed, share)


def test_a_price_is_brute_force() -> None:
    for seed, price in product(range(6), (0.0, 0.1, 1.0, 10.0)):
        menus = random_menus(seed)
        chosen = at_price(menus, price)
        least = min(error + price * spikes for spikes, error in everything(menus))
        assert total_error(chosen) + price * mean_spikes(menus, chosen) == pytest.approx(least, abs=1e-12)


def test_more_spikes_never_mean_more_error() -> None:
    menus = random_menus(99)
    low, high = (pick(spikes for spikes, _ in everything(menus)) for pick in (min, max))
    budgets = torch.linspace(low, high, 30, dtype=torch.float64).tolist()
    errors = [total_error(within_spikes(menus, budget + 1e-12)) for budget in budgets]
    assert all(later <= earlier for earlier, later in pairwise(errors))


def test_what_is_out_of_reach() -> None:
    menus = random_menus(1)
    least = min(spikes for spikes, _ in everything(menus))
    with pytest.raises(SpikeconvError, match=f"out of reach: the least that was tried sends {least:.3f}"):
        within_spikes(menus, least / 2)
    with pytest.raises(SpikeconvError, match="none below 0"):
        at_price(menus, -1.0)


def test_offers_are_their_equation(tiny_checkpoint: Fixture) -> None:
    """Against one backward of the whole model with float weights, two linears of each layer."""
    path = tiny_checkpoint("llama")
    source = HfSource(path)
    settings = {"bits": "16-1.58", "count_scale": "rms", "temporal_code": "ramp", "slots": 8}
    plan = make_plan(source, SpikeConfig.parse(settings))
    windows = torch.randint(0, source.config["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(3))
    trees: list[dict[str, Any]] = [{"inputs": {"step": s, "dead_zone": d}} for s, d in ((0.1, 0.0), (0.3, 0.4))]
    scheme = plan.jobs[0].scheme
    candidates = [Candidate(tree, scheme.overlaid(tree)) for tree in trees]
    groups = [[linear] for linear in plan.layout if linear.role in ("o", "down")]
    menus = offers_of(source, groups, lambda linear: candidates, windows)

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def look(name: str, x: torch.Tensor, output: torch.Tensor) -> None:
        output.retain_grad()
        seen[name] = x, output

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, x, y, name=name: look(name, x[0], y))
    logits = model(windows).logits.flatten(0, 1)
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=torch.Generator().manual_seed(SEED))[:, 0]
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    for (linear,), menu in zip(groups, menus, strict=True):
        x, output = (each.flatten(0, -2) for each in seen[linear.name])
        gradient = seen[linear.name][1].grad
        assert gradient is not None
        weight = model.get_submodule(linear.name).weight.detach()
        assert menu.names == (linear.name,) and menu.macs == weight.numel()
        for (_, tried), offer in zip(candidates, menu.offers, strict=True):
            encoder = Encoder(x.shape[-1], tried)
            encoding = encoder.encode(x.detach())
            assert encoding.spikes is not None and encoder.rotation is not None
            lost = encoder.rotation.inverse(encoding.decode()) @ weight.mT - output.detach()
            error = (gradient.flatten(0, -2) * lost).sum(-1).square().mean() / 2
            trains = code_of("ramp", 8).unfold(encoding.spikes.counts, 36)
            assert offer.spikes == pytest.approx(float(trains.abs().float().sum() / x.numel()), rel=1e-6)
            assert offer.error == pytest.approx(float(error), rel=1e-3)


def test_errors_of_small_steps_are_the_divergence(tiny_checkpoint: Fixture) -> None:
    """All groups together, with float weights: what the predictions really move, in nats per token."""
    path = tiny_checkpoint("llama")
    source = HfSource(path)
    settings = {"bits": "16-1.58", "count_scale": "rms", "step": 0.02, "temporal_code": "ramp", "slots": 32}
    plan = make_plan(source, SpikeConfig.parse(settings))
    ids = torch.randint(0, source.config["vocab_size"], (64, 64), generator=torch.Generator().manual_seed(4))
    groups: dict[str, list[ModuleLinear]] = {}
    for linear in plan.layout:
        groups.setdefault(linear.group, []).append(linear)
    menus = offers_of(source, list(groups.values()), lambda linear: [Candidate({}, plan.jobs[0].scheme)], ids)
    expected = total_error([menu.offers[0] for menu in menus])

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    spiking = convert_in_memory(source, plan, dtype=torch.float32)
    with torch.no_grad():
        wanted, found = (each(ids).logits.double().log_softmax(-1) for each in (model, spiking))
    divergence = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    assert expected == pytest.approx(divergence, rel=0.25)
