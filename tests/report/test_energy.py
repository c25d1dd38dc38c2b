"""SpikeRWKV's picojoules, from its Table 3."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spikeconv.evaluate.models import load_checkpoint
from spikeconv.record.text import record_text
from spikeconv.report.energy import spikerwkv, spikerwkv_report
from spikeconv.report.firing_rate import firing_report

C_IN = 2560

TABLE_3 = [  # E_SNN in pJ and EE, averages over the tasks; events per input as METHOD reads them
    (1.05, 2412.3, 4.88),
    (1.94, 4476.5, 2.63),
    (2.84, 6551.6, 1.79),
]


@pytest.mark.parametrize(("events", "picojoules", "efficiency"), TABLE_3)
def test_table_3(events: float, picojoules: float, efficiency: float) -> None:
    energy = spikerwkv(C_IN, events)
    assert energy.ann == 11776
    assert energy.snn == pytest.approx(picojoules, rel=0.005)  # the events are given to three digits
    assert energy.efficiency == pytest.approx(efficiency, abs=0.01 + 0.005 * efficiency)


def test_the_formula_of_the_paper() -> None:
    """E_SNN = C_in · fr · T · l · E_AC: three layers that fire at rate 1."""
    assert spikerwkv(10, 1 * 1 * 3).snn == pytest.approx(27)
    assert spikerwkv(10, 0).efficiency == float("inf")


def test_three_readings_of_an_event(converted: Callable[..., Path]) -> None:
    path = converted("llama", codec="multihead")
    loaded = load_checkpoint(path, device="cpu")
    report = firing_report(record_text(loaded.model, loaded.tokenizer, "Four score and seven years ago"))
    energies = spikerwkv_report(report)
    for role in ("q", "down"):
        layers = [layer for layer in report.layers if layer.role == role]
        size = layers[0].in_features
        assert energies[role]["ann"] == pytest.approx(size * 4.6)
        events = sum(layer.events for layer in layers) / len(layers)
        assert energies[role]["graded"] == pytest.approx(size * events * 0.9)
        assert energies[role]["graded"] <= energies[role]["bits"] <= energies[role]["unary"]
    # Of all together the ratio is that of E_ANN and E_SNN summed over every product.
    macs, events = report.total.macs, sum(layer.macs * layer.events for layer in report.layers)
    assert energies["all"]["ann"] / energies["all"]["graded"] == pytest.approx(4.6 * macs / (0.9 * events))
    assert all(layer.firing_rate == pytest.approx(layer.events / 3) for layer in report.layers)


def test_counts_have_no_binary_digits(converted: Callable[..., Path]) -> None:
    path = converted("llama")
    loaded = load_checkpoint(path, device="cpu")
    energies = spikerwkv_report(firing_report(record_text(loaded.model, loaded.tokenizer, "Four score")))
    assert energies["q"].keys() == {"ann", "graded", "unary"}
