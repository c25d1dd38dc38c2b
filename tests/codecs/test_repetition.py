"""The repetition code counts what an integrate-and-fire neuron fires."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from spikeconv.codecs import RepetitionCodec, codec_of
from spikeconv.config import SpikeConfig
from spikeconv.nn import set_execution


def fires(x: Fraction, threshold: Fraction, steps: int) -> int:
    """Integrate and fire with soft reset, a constant input, one spike a step (SpikeRWKV, eq. 1 and 2)."""
    potential, spikes = Fraction(0), 0
    for _ in range(steps):
        potential += x
        if potential >= threshold:
            potential -= threshold
            spikes += 1
    return spikes


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 127])
@pytest.mark.parametrize("quantile", [1.0, 0.9])
def test_counts_are_those_of_the_neuron(steps: int, quantile: float, device: torch.device) -> None:
    u = torch.randn(3, 40, device=device)
    spikes = RepetitionCodec(steps, quantile).encode(u)
    assert spikes.counts.dtype == torch.int8
    for row, counts, scale in zip(u.tolist(), spikes.counts.tolist(), spikes.scale.tolist(), strict=True):
        threshold = Fraction(scale[0]) * steps
        for value, count in zip(row, counts, strict=True):
            exact = abs(Fraction(value)) * steps / threshold
            if abs(exact - round(exact)) > Fraction(1, 10**5):  # float32 may round a hair across
                assert count == fires(abs(Fraction(value)), threshold, steps) * (-1 if value < 0 else 1)


def test_the_threshold_is_the_largest_or_a_quantile() -> None:
    u = torch.tensor([[1.0, -2.0, 3.0, 0.5, 8.0]])
    assert RepetitionCodec(4, 1.0).encode(u).scale.item() * 4 == 8
    assert RepetitionCodec(4, 0.5).encode(u).scale.item() * 4 == 2
    assert RepetitionCodec(4, 0.5).encode(u).counts.tolist() == [[2, -4, 4, 1, 4]]


def test_silence_and_broken_tokens() -> None:
    u = torch.randn(3, 8)
    u[0], u[1, 2], u[2, 3] = 0, torch.nan, torch.inf
    spikes = RepetitionCodec(4, 1.0).encode(u)
    assert not spikes.counts[0].any() and (spikes.decode()[0] == 0).all()
    assert not spikes.scale[1:].isfinite().any()


@pytest.mark.parametrize("bits", ["4-1.58", "8-1.58"])
@pytest.mark.parametrize("rotation", ["none", "gamma-sqp"])
def test_executions_agree(bits: str, rotation: str, make_linear: Callable[..., Any], device: torch.device) -> None:
    linear = make_linear(bits=bits, codec="repetition", time_steps=6, rotation=rotation)[0].to(device)
    x = torch.randn(4, 72, device=device)
    outputs = []
    for execution in ("auto", "dense", "events", "unfold"):
        set_execution(linear, execution)
        outputs.append(linear(x))
    assert all(torch.equal(y, outputs[0]) for y in outputs)
    train = linear.encoder.codec.unfold(linear.encoder(x).spikes.counts)
    assert train.shape == (6, 4, 72) and torch.equal(train.sum(0, dtype=torch.int8), linear.encoder(x).spikes.counts)


def test_schemes_choose_the_codec() -> None:
    config = SpikeConfig.parse({"codec": "repetition", "time_steps": 3})
    assert codec_of(config.inputs) == RepetitionCodec(3, 1.0)
    assert (config.bits, config.inputs.virtual_steps, config.weights.bits) == ("16-T3", 3, 16)
    assert config.rotation.is_none
