"""Layouts are chosen once, from the measured share of zeros, and change no bit."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.checkpoint.folder import save_zero_shares
from spikeconv.config import SpikeConfig
from spikeconv.nn import SpikeGroup, arrange_weights, layout, set_execution, spike_linears
from spikeconv.nn.costs import Costs, measured_costs
from spikeconv.ops.native import Backend


def test_events_need_many_zeros_and_long_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs(dense=1, inputs=10, column=200, byte=2)
    for zeros, column_bytes, events in (
        (0.0, 1 << 20, False),
        (0.49, 1 << 20, False),
        (0.51, 1 << 20, True),
        (0.9, 41, True),  # 10 + 0.1 · (200 + 2 · 41) = 38.2
        (0.9, 36, False),
        (1.0, 11, True),
        (1.0, 9, False),
    ):
        assert costs.prefer_events(zeros, 64, column_bytes) == events, (zeros, column_bytes)
    monkeypatch.setattr("spikeconv.nn.costs.BYTES", 1 << 20)
    for nibbles in (True, False):
        measured = measured_costs.__wrapped__("cpu", torch.get_num_threads(), nibbles)
        assert measured.dense > 0 and min(measured.inputs, measured.column, measured.byte) >= 0


def layouts(model: torch.nn.Module) -> dict[str, str]:
    return {name: linear.layout for name, linear in spike_linears(model).items()}


def test_layout_follows_the_measured_zeros(
    converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logits_of: Callable[..., Any]
) -> None:
    monkeypatch.setattr(layout, "measured_costs", lambda *of: Costs(dense=1, inputs=0, column=0, byte=5))
    path = converted("llama")
    config = (path / "config.json").read_text()
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    expected = logits_of(model)
    assert set(layouts(model).values()) == {"tiles"}  # nothing measured yet
    names = list(spike_linears(model))
    try:
        save_zero_shares(path, {name: 0.95 if ".0." in name else 0.2 for name in names})
        assert json.loads((path / "config.json").read_text())["quantization_config"]["zero_share"][names[0]] == 0.95
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        assert layouts(model) == {name: "columns" if ".0." in name else "tiles" for name in names}
        assert torch.equal(logits_of(model), expected)
        model.save_pretrained(tmp_path / "again")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
        assert layouts(again) == layouts(model)
    finally:
        (path / "config.json").write_text(config)  # the checkpoint is shared by the session


def test_a_group_shares_one_set_of_columns(make_linear: Callable[..., Any]) -> None:
    from spikeconv.config import SpikeConfig
    from spikeconv.nn import SpikeGroup

    group = SpikeGroup(72, SpikeConfig())
    model = torch.nn.ModuleList(make_linear(out_features=n, group=group)[0] for n in (64, 20, 32))
    x = torch.randn(1, 72)
    expected = [linear(x) for linear in model]
    set_execution(model, "events")
    storages = {linear.weight.untyped_storage().data_ptr() for linear in model}
    assert len(storages) == 1 and layouts(model) == {"0": "columns", "1": "columns", "2": "columns"}
    assert all(torch.equal(linear(x), y) for linear, y in zip(model, expected, strict=True))


def test_arranging_keeps_no_second_copy(make_linear: Callable[..., Any]) -> None:
    linear, _ = make_linear(128, 64)
    before = linear.weight.numel()
    for wanted in ("tiles", "columns", "packed"):
        linear.arrange(wanted)
        assert linear.weight.numel() == before
        assert sum(tensor.numel() for tensor in linear.buffers() if tensor.dtype == torch.uint8) == before


def test_packed_without_native_kernels(make_linear: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ready", lambda device: Backend("reference", "test"))
    linear, _ = make_linear()
    arrange_weights(linear)
    assert linear.layout == "packed"


def test_any_mix_of_layouts_gives_the_same(make_linear: Callable[..., Any]) -> None:
    """Also where a chosen execution is not the one that the layout is for."""
    group = SpikeGroup(72, SpikeConfig())
    model = torch.nn.ModuleList(make_linear(72, outputs, group=group)[0] for outputs in (24, 40))
    for tokens in (1, 3):
        x = torch.randn(tokens, 72)
        expected = [linear(x) for linear in model]
        for mix in product(("tiles", "columns", "packed"), repeat=2):
            for execution in ("auto", "dense", "events", "unfold"):
                for linear, wanted in zip(model, mix, strict=True):
                    linear.execution = execution
                    linear.arrange(wanted)
                with torch.no_grad():
                    outputs = [linear(x) for linear in model]
                assert all(map(torch.equal, outputs, expected)), (tokens, mix, execution)
