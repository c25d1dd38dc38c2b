"""SpikeLM's neurons against its equations, written down again: spikes, what they are worth, and gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.codecs import NeuronCodec, codec_of
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.nn.firing import fired

KINDS: list[dict[str, Any]] = [
    {"codec": "elastic"},
    {"codec": "elastic", "reset": "normalised"},
    {"codec": "elastic", "inputs.spikes": "binary"},
    {"codec": "lif"},
    {"codec": "lif", "inputs.gradient": "arctan", "inputs.leak": 0.5},
]


def codec(steps: int, settings: dict[str, Any]) -> NeuronCodec:
    result = codec_of(SpikeConfig.parse({"time_steps": steps, **settings}).inputs)
    assert isinstance(result, NeuronCodec)
    return result


def loop(x: Tensor, alpha: Tensor, settings: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """s and m of inputs x [T, rows, n], neuron by neuron as the public code goes, with gradients by autograd."""
    inputs = SpikeConfig.parse({"time_steps": len(x), **settings}).inputs
    m, out, potentials = torch.zeros_like(x[0]), [], []
    s, before = torch.zeros_like(m), alpha[0]
    for t, drive in enumerate(x):
        if inputs.codec == "lif":
            m = drive + inputs.leak * m * (1 - s)
            hard = (m >= 1).to(x.dtype)
            slope = 1 / (1 + (math.pi * (m - 1)) ** 2) if inputs.gradient == "arctan" else ((m >= 0) & (m <= 1))
            spike = hard.detach() + slope.to(x.dtype).detach() * (m - m.detach())
            s = hard.detach()
        else:
            left = (before - s) if inputs.reset == "code" else 1 - s.abs() / before
            m = drive + (0 if t == 0 else inputs.leak * m * left)
            low = -1 if inputs.spikes == "ternary" else 0
            k = (m.detach() / alpha[t].detach()).round().clamp(low, 1)
            within = (m.detach() / alpha[t].detach() >= low) & (m.detach() / alpha[t].detach() <= 1)
            of_alpha = torch.where(within, k - m.detach() / alpha[t].detach(), k) / math.sqrt(m.numel())
            value = (k * alpha[t]).detach()
            spike = value + within.to(x.dtype) * (m - m.detach()) + of_alpha * (alpha[t] - alpha[t].detach())
            s, before = value, alpha[t].detach()
        out.append(spike)
        potentials.append(m)
    return torch.stack(out), potentials


def test_spikes_and_gradients_are_those_of_the_equations(device: torch.device) -> None:
    for steps in (1, 2, 4):
        for settings in KINDS:
            x = torch.randn(steps, 5, 40, device=device, dtype=torch.float64) * 1.3
            alpha = torch.rand(steps, device=device, dtype=torch.float64) + 0.5
            x.requires_grad_(), alpha.requires_grad_()
            expected, _ = loop(x, alpha, settings)
            neuron = codec(steps, settings).neuron
            ours, our_alpha = x.detach().float().requires_grad_(), alpha.detach().float().requires_grad_()
            if settings["codec"] == "lif":
                ours_alpha = torch.ones(steps, device=device)
                found = fired(ours.flatten(0, 1), ours_alpha, neuron).view_as(ours)
                counts = codec(steps, settings).encode(ours.detach().flatten(0, 1), calibrated=ours_alpha)
            else:
                found = fired(ours.flatten(0, 1), our_alpha, neuron).view_as(ours)
                counts = codec(steps, settings).encode(ours.detach().flatten(0, 1), calibrated=our_alpha.detach())
            assert (found - expected).abs().max() <= 1e-6, (steps, settings)
            assert torch.equal(counts.decode().view_as(found), found), "the codec decodes to what training computes"
            assert counts.steps == steps and counts.counts.dtype == torch.int8
            weights = torch.randn_like(expected)
            (expected * weights).sum().backward()
            (found * weights.float()).sum().backward()
            assert (ours.grad - x.grad).abs().max() <= 1e-5, (steps, settings)
            if settings["codec"] == "elastic":
                assert (our_alpha.grad - alpha.grad).abs().max() <= 1e-5 * alpha.grad.abs().max().clamp_min(1)


def test_a_negative_spike_doubles_what_the_code_leaves() -> None:
    """α = 1, β = 1/4: m = -1 fires, and leaves -1/2 to the next step; normalised, nothing."""
    for reset, second in (("code", -0.1 - 0.5), ("normalised", -0.1)):
        neuron = codec(2, {"codec": "elastic", "reset": reset}).neuron
        m, k = neuron.charged(torch.tensor([[-1.0], [-0.1]]), torch.ones(2))
        assert m.flatten().tolist() == [-1.0, pytest.approx(second)]
        assert k.flatten().tolist() == [-1.0, -1.0 if reset == "code" else 0.0]


RATES = {2: (0.425, 0.368), 3: (0.231, 0.223), 4: (0.110, 0.135)}
"""By k: how often a neuron that fires from α/2 on fires for Gaussian and for Laplacian inputs, in closed form."""


def test_alpha_and_rates() -> None:
    gauss = torch.randn(1, 1000, 1000)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((1, 1000, 1000))
    for k, expected in RATES.items():
        for x, rate in zip((gauss, laplace), expected, strict=True):
            sent = codec(1, {"codec": "elastic", "k": k})
            alpha = sent.neuron.found(x, float(k))
            assert alpha.tolist() == [pytest.approx(k * float(x.double().abs().mean()), rel=1e-5)]
            found = sent.encode(x[0], calibrated=alpha, histogram=True)
            assert float(found.counts.abs().float().mean()) == pytest.approx(rate, abs=0.002)
            assert found.histogram.tolist() == (found.counts.flatten().long() + 1).bincount(minlength=3).tolist()
    steps = codec(3, {"codec": "elastic", "k": 2}).neuron
    x = torch.randn(3, 50, 30)
    alpha = steps.found(x, 2.0)
    m, _ = steps.charged(x, alpha)
    assert alpha.tolist() == pytest.approx((2 * m.abs().mean((1, 2))).tolist(), rel=1e-6), "of m, not of the input"
    assert codec(2, {"codec": "lif"}).neuron.found(x[:2], None).tolist() == [1, 1]


def test_what_is_not_finite_stays_so_and_other_rows_do_not_see_it() -> None:
    sent = codec(2, {"codec": "elastic"})
    x = torch.randn(6, 8)
    expected = sent.encode(x, calibrated=torch.ones(2)).decode()
    x[1, 3] = torch.inf
    found = sent.encode(x, calibrated=torch.ones(2)).decode()
    assert found[1].isnan().all() and torch.equal(found[[0, 2, 3, 5]], expected[[0, 2, 3, 5]])
    with pytest.raises(SpikeconvError, match="5 rows, which are not as many streams"):
        sent.encode(x[:5], calibrated=torch.ones(2))
