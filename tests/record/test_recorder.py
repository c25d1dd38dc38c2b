"""The recorder counts every spike once, and Gaussian inputs fire at the paper's rates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spikeconv.codecs import SpikeCounts
from spikeconv.config import SpikeConfig
from spikeconv.nn import Encoder, SpikeGroup
from spikeconv.record.recorder import Recorder, SpikeStatistics


@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "8-8", "8-1"])
def test_counts_are_brute_force(bits: str, make_linear: Callable[..., Any], device: torch.device) -> None:
    linear = make_linear(bits=bits)[0].to(device)
    model = torch.nn.Sequential(linear)
    inputs = [
        torch.randn(2, 5, 72, device=device),
        torch.zeros(3, 72, device=device),
        torch.randn(0, 72, device=device),
    ]
    counts = [k for x in inputs for k in linear.encoder(x).spikes.counts.flatten().tolist()]
    with Recorder(model) as recorder:
        for x in inputs:
            model(x)
    model(inputs[0])  # outside: not counted
    statistics = recorder.statistics["0"]
    assert (statistics.tokens, statistics.inputs) == (13, 13 * 72)
    codec = linear.encoder.codec
    assert statistics.counts == {k: counts.count(k) for k in range(codec.count_min, codec.count_max + 1)}
    assert (statistics.spikes, statistics.zeros) == (sum(map(abs, counts)), counts.count(0))
    assert statistics.ones == sum(bin(abs(k)).count("1") for k in counts)


def test_histograms_of_other_ranges_add_up() -> None:
    """A model's number of steps may change between two encodings."""
    statistics = SpikeStatistics()
    statistics.note(8, 4, torch.tensor([1, 2, 3, 2]), -2)
    statistics.note(8, 4, torch.tensor([4, 1, 1, 1, 1]), 0)
    statistics.note(4, 4, torch.tensor([4]), 0)
    assert statistics.counts == {-2: 1, -1: 2, 0: 3 + 4 + 4, 1: 2 + 1, 2: 1, 3: 1, 4: 1}
    assert (statistics.tokens, statistics.inputs, statistics.zeros) == (5, 20, 11)


def test_a_group_is_counted_once(make_linear: Callable[..., Any]) -> None:
    group = SpikeGroup(72, SpikeConfig())
    model = torch.nn.ModuleList(make_linear(group=group)[0] for _ in range(3))
    x = torch.randn(5, 72)
    with Recorder(model) as recorder:
        for linear in model:
            linear(x)
    assert recorder.statistics["0"] is recorder.statistics["1"] is recorder.statistics["2"]
    assert recorder.statistics["0"].tokens == 5


def test_output_is_unchanged_and_nothing_stays(make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear()
    model, x = torch.nn.Sequential(linear), torch.randn(5, 72)
    expected = model(x)
    with pytest.raises(ZeroDivisionError), Recorder(model):
        assert torch.equal(model(x), expected)
        raise ZeroDivisionError
    assert not linear.encoder.observers


def test_several_recorders_at_once(make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear()
    model = torch.nn.Sequential(linear)
    with Recorder(model) as outer:
        model(torch.randn(5, 72))
        with Recorder(model) as inner, Recorder(model) as other:
            model(torch.randn(3, 72))
        model(torch.randn(2, 72))
    model(torch.randn(7, 72))
    assert [recorder.statistics["0"].tokens for recorder in (outer, inner, other)] == [10, 3, 3]
    assert not linear.encoder.observers


def test_nothing_recorded_is_zero(make_linear: Callable[..., Any]) -> None:
    with Recorder(torch.nn.Sequential(make_linear()[0])) as recorder:
        pass
    statistics = recorder.statistics["0"]
    assert (statistics.tokens, int(statistics.spikes), int(statistics.zeros)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"bits": "4-1.58"}, 0.20, 0.22),  # SDLLM's LLaMA2-7B rates
        ({"bits": "6-1.58"}, 0.20, 0.24),
        ({"bits": "4-1"}, 0.48, 0.52),
        ({"bits": "6-1"}, 0.48, 0.52),
    ],
)
def test_firing_rate_of_gaussian_inputs(settings: dict[str, Any], low: float, high: float) -> None:
    encoder = Encoder(4096, SpikeConfig.parse(settings))
    rates: list[float] = []

    def note(spikes: SpikeCounts) -> None:
        rates.append(spikes.counts.float().abs().mean().item() / encoder.scheme.inputs.virtual_steps)

    encoder.observers.append(note)
    encoder(torch.randn(256, 4096, generator=torch.Generator().manual_seed(0)))
    assert low <= rates[0] <= high
