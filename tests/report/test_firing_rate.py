"""The firing report against a count done by hand, and its bookkeeping."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import spike_linears
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import FiringReport, firing_report

TEXT = "Four score and seven years ago our fathers brought forth"


def report_of(path: Path, text: str = TEXT, **options: int) -> FiringReport:
    loaded = load_checkpoint(path, device="cpu")
    return firing_report(record_text(loaded.model, loaded.tokenizer, text, **options))


def test_counts_equal_those_of_the_encoders(converted: Callable[..., Path]) -> None:
    loaded = load_checkpoint(converted("llama"), device="cpu")
    inputs: dict[str, torch.Tensor] = {}
    for name, linear in spike_linears(loaded.model).items():
        linear.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0].clone()))
    report = firing_report(record_text(loaded.model, loaded.tokenizer, TEXT))
    tokens = len(loaded.tokenizer(TEXT).input_ids)
    for layer in report.layers:
        linear = spike_linears(loaded.model)[layer.name]
        spikes = linear.encoder(inputs[layer.name]).spikes
        assert spikes is not None
        magnitude = spikes.counts.long().abs()
        assert layer.mean_count == magnitude.sum().item() / magnitude.numel()
        assert layer.firing_rate == layer.mean_count / 8
        assert layer.zero_share == (spikes.counts == 0).sum().item() / magnitude.numel()
        assert layer.accumulations == magnitude.sum().item() * linear.out_features
        assert layer.macs == tokens * linear.in_features * linear.out_features
        assert layer.weight_bytes == linear.weight.numel()
    assert report.total.macs == sum(layer.macs for layer in report.layers)


def test_spikes_are_those_of_the_temporal_code(converted: Callable[..., Path]) -> None:
    """The digits of a count in binary: up to |-8| in four slots. The integers, and what is said of them, stay."""
    unary = report_of(converted("llama"))
    loaded = load_checkpoint(converted("llama", code={"kind": "binary"}), device="cpu")
    record = record_text(loaded.model, loaded.tokenizer, TEXT)
    binary = firing_report(record)
    assert not binary.to_dict().keys() ^ unary.to_dict().keys()
    for seen, layer, before in zip(record.layers, binary.layers, unary.layers, strict=True):
        ones = sum(bin(abs(count)).count("1") * times for count, times in seen.histogram.items())
        assert (layer.code, layer.virtual_steps) == ("binary", 4) and (before.code, before.virtual_steps) == (
            "unary",
            8,
        )
        assert layer.spikes_per_input == ones / seen.inputs and layer.firing_rate == layer.spikes_per_input / 4
        assert layer.accumulations == ones * seen.out_features
        assert (layer.membrane_shifts, layer.membrane_additions) == (4 * seen.tokens * seen.out_features, 0)
        assert (before.membrane_shifts, before.membrane_additions) == (0, 0)
        assert (
            layer.mean_count == before.mean_count == before.spikes_per_input and layer.zero_share == before.zero_share
        )
    assert binary.total.spikes_per_input < unary.total.spikes_per_input == unary.total.mean_count
    assert (binary.total.slots, unary.total.slots) == (4, 8)


def test_a_ramp_sends_one_spike_for_every_count(converted: Callable[..., Path]) -> None:
    loaded = load_checkpoint(converted("llama", code={"kind": "ramp"}), device="cpu")
    record = record_text(loaded.model, loaded.tokenizer, TEXT)
    report = firing_report(record)
    for seen, layer in zip(record.layers, report.layers, strict=True):
        assert layer.spikes_per_input == layer.events
        assert (layer.membrane_shifts, layer.membrane_additions) == (0, 8 * seen.tokens * seen.out_features)
    assert report.total.slots == 8


def test_rotation_is_paid_once_per_group(converted: Callable[..., Path]) -> None:
    paid = {layer.role: layer.rotation_additions for layer in report_of(converted("llama")).layers}
    assert paid["q"] > 0 and paid["down"] > 0
    assert paid["k"] == paid["v"] == paid["up"] == 0


def test_windows_and_token_limit(converted: Callable[..., Path]) -> None:
    assert report_of(converted("llama"), tokens=7).total.tokens == 7


def test_counts_sent_whole_have_no_rate(converted: Callable[..., Path]) -> None:
    report = report_of(converted("llama", bits="4-4"))
    assert report.total.firing_rate is None
    assert all(layer.firing_rate is None and layer.virtual_steps == 1 for layer in report.layers)
    assert report.total.flops == report.total.dense_flops


def test_float_activations_have_no_spikes(converted: Callable[..., Path]) -> None:
    with pytest.raises(SpikeconvError, match="no spikes"):
        report_of(converted("llama", bits="4-16"))


def test_linears_without_spikes_stay_in_floating_point(converted: Callable[..., Path]) -> None:
    report = report_of(converted("llama", skip=("q",)), tokens=7)
    assert {layer.role for layer in report.layers} == {"k", "v", "o", "gate", "up", "down"}
    linears = load_checkpoint(converted("llama", skip=("q",)), device="cpu").model.model.layers
    assert report.total.float_macs["linears"] == sum(7 * layer.self_attn.q_proj.weight.numel() for layer in linears)
    assert "linears" not in report_of(converted("llama"), tokens=7).total.float_macs


def test_spikes_in_the_cache_alone(converted: Callable[..., Path]) -> None:
    report = report_of(converted("llama", bits="16-16", rotation="none", kv_bits=4), tokens=7)
    assert not report.layers and report.by_role() == {}
    assert report.total.linears == report.total.macs == 0 and report.total.firing_rate is None
    assert 0 < report.cache["k"].firing_rate < 1


def test_spikes_of_the_cache_are_those_of_its_code(converted: Callable[..., Path]) -> None:
    """By hand from the histograms, with the fewest spikes of a ramp found by trying all trains."""
    subsets = [sum(slot + 1 for slot in range(5) if mask >> slot & 1) for mask in range(32)]
    fewest = {count: min(mask.bit_count() for mask in range(32) if subsets[mask] == count) for count in range(9)}
    signed = [0, 1, 1, 2, 1, 2, 2, 2, 1]  # 3 = 4 - 1, 7 = 8 - 1; 5 = 4 + 1, 6 = 8 - 2
    for code, slots, spikes, doublings, additions in (
        ({}, 8, lambda count: count, 0, 0),
        ({"kv_code": "binary"}, 4, lambda count: bin(count).count("1"), 4, 0),
        ({"kv_code": "signed-digit"}, 4, lambda count: signed[count], 4, 0),
        ({"kv_code": "ramp"}, 8, lambda count: int(count > 0), 0, 8),
        ({"kv_code": "ramp", "kv_slots": 5}, 5, lambda count: fewest[count], 0, 5),
    ):
        loaded = load_checkpoint(converted("llama", kv_bits=4, kv_group=4, **code), device="cpu")
        record = record_text(loaded.model, loaded.tokenizer, TEXT)
        # As for a text of two windows: sums of values are one a query and output, whatever the number of keys.
        record = replace(record, sequences=(9, record.tokens - 9))
        attention = 2 * 2 * 9 * 8 * sum(tokens**2 for tokens in record.sequences)  # both products, layers, heads
        report = firing_report(replace(record, float_macs={**record.float_macs, "attention": attention}))
        json.dumps(record.to_dict())
        scores, outputs = attention // 2 // 4, 2 * 9 * 8 * record.tokens
        means = []
        for kind, sums in (("k", scores), ("v", outputs)):
            seen, firing = record.cache[kind], report.cache[kind]
            sent = sum(spikes(abs(count)) * times for count, times in seen.histogram.items())
            means.append(sent / sum(seen.histogram.values()))
            assert (firing.code, firing.virtual_steps) == (code.get("kv_code", "unary"), slots)
            assert firing.spikes_per_input == means[-1] and firing.firing_rate == means[-1] / slots
            assert firing.accumulations == attention // 2 * means[-1]
            assert (firing.membrane_shifts, firing.membrane_additions) == (doublings * sums, additions * sums)
        total = report.to_dict()["total"]
        assert total["cache_spikes_per_input"] == sum(means) / 2 and total["cache_slots"] == slots
        assert total["cache_membrane_shifts"] == doublings * (scores + outputs)
        assert total["cache_membrane_additions"] == additions * (scores + outputs)
    assert report_of(converted("llama"), tokens=7).total.cache_spikes_per_input is None


def test_empty_text(converted: Callable[..., Path]) -> None:
    with pytest.raises(SpikeconvError, match="empty"):
        report_of(converted("llama"), text="")


def test_sample_is_real_prose() -> None:
    assert len(sample_text().split()) > 800
