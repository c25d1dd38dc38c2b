"""What `record_spikes` says is what the encoders gave, slot by slot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import spikeconv
from spikeconv.errors import SpikeconvError
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]
Q, K, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bits": "4-1"},
        {"bits": "4-4"},
        {"codec": "multihead"},
        {"code": "binary"},
        {"code": "signed-digit"},
        {"code": "ramp", "slots": 5},
    ],
)
def test_trains_and_histograms(settings: dict[str, Any], converted: Fixture, tokens: torch.Tensor) -> None:
    model = spikeconv.load(converted("llama", **settings))
    linears = spike_linears(model)
    seen: dict[str, list[torch.Tensor]] = {Q: [], DOWN: []}
    for name, inputs in seen.items():
        linears[name].register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].clone()))
    with spikeconv.record_spikes(model, trains=[Q, "*.down_proj"]) as spikes, torch.no_grad():
        model(tokens)
        model(tokens[:1, :3])
    model(tokens)  # outside: not counted
    assert set(spikes) == set(linears) and len(spikes) == 14
    for name in (Q, DOWN):
        encoder = linears[name].encoder
        expected = [encoder(x).spikes for x in seen[name][:2]]
        for forward, encoded in enumerate(expected):
            assert torch.equal(spikes.counts(name, forward), encoded.counts)
            train = spikes.train(name, forward)
            assert train.dtype == torch.int8 and train.shape[1:] == encoded.counts.shape
            slots = {"binary": 4, "signed-digit": 4, "ramp": 5, "unary": encoder.codec.largest_count}
            assert len(train) == slots[encoder.code.name]
            assert set(train.unique().tolist()) <= {-1, 0, 1}
            weights = torch.tensor(encoder.code.weights(encoder.codec.largest_count))
            total = (train.long() * weights.view(-1, *[1] * encoded.counts.dim())).sum(0)
            assert torch.equal(total, encoded.counts.long())
        counts = torch.cat([encoded.counts.flatten() for encoded in expected])
        layer = spikes[name]
        assert {count: times for count, times in layer.histogram.items() if times} == {
            count: int((counts == count).sum()) for count in counts.unique().tolist()
        }
        assert (layer.tokens, layer.inputs) == (25, 25 * linears[name].in_features)
        assert layer.mean_count == counts.long().abs().sum().item() / layer.inputs
        assert layer.zero_share == (counts == 0).sum().item() / counts.numel()
    assert spikes.train(Q).shape == spikes.train(Q, 1).shape != spikes.train(Q, 0).shape
    macs = [linear.in_features * linear.out_features for linear in linears.values()]
    rates = [layer.firing_rate for layer in spikes.values()]
    if settings.get("bits") == "4-4":
        assert spikes.firing_rate is None and rates == [None] * 14
    else:
        mean = sum(rate * weight for rate, weight in zip(rates, macs, strict=True)) / sum(macs)
        assert spikes.firing_rate == pytest.approx(mean, rel=1e-12) and 0 < mean < 1


def test_several_at_once(converted: Fixture, tokens: torch.Tensor) -> None:
    model = spikeconv.load(converted("llama", kv_bits=4))
    with spikeconv.record_spikes(model, trains=[Q]) as outer, torch.no_grad():
        model(tokens)
        with spikeconv.record_spikes(model, trains=[Q]) as inner, spikeconv.record_spikes(model) as third:
            model(tokens)
        model(tokens)
    assert [each[Q].tokens for each in (outer, inner, third)] == [66, 22, 22]
    assert inner[Q] == third[Q] and outer[Q].spikes == 3 * inner[Q].spikes
    assert torch.equal(outer.train(Q, 1), inner.train(Q)) and len(outer.cache) == 2
    assert outer.cache["k"].states == 3 * inner.cache["k"].states == 3 * 22 * 2 * 3
    assert all(not linear.encoder.observers for linear in spike_linears(model).values())


def test_what_was_kept_stays_what_it_was(converted: Fixture, tokens: torch.Tensor) -> None:
    model = spikeconv.load(converted("llama"))
    with spikeconv.record_spikes(model, trains=[Q]) as spikes:
        model(tokens)
        with pytest.raises(spikeconv.SpikeconvError, match="while spikes are recorded"):
            spikeconv.set_steps(model, 16)
    before = spikes.train(Q)
    spikeconv.set_steps(model, 16)
    assert torch.equal(spikes.train(Q), before) and before.shape[0] == 8


def test_wrong_names(converted: Fixture, tiny_checkpoint: Fixture, tokens: torch.Tensor) -> None:
    model = spikeconv.load(converted("llama"))
    with pytest.raises(spikeconv.SpikeconvError, match="No converted linear is called lm_head"):
        spikeconv.record_spikes(model, trains=["lm_head"])
    with spikeconv.record_spikes(model, trains=[Q]) as spikes:
        assert not spikes and spikes.firing_rate is None
        with pytest.raises(spikeconv.SpikeconvError, match="run 0 times"):
            spikes.train(Q)
        model(tokens)
    with pytest.raises(spikeconv.SpikeconvError, match="not kept"):
        spikes.train(K)
    with pytest.raises(KeyError):
        spikes["lm_head"]
    from transformers import AutoModelForCausalLM

    with pytest.raises(spikeconv.SpikeconvError, match="not converted"):
        spikeconv.record_spikes(AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama")))


def test_what_was_recorded_stays(converted: Fixture, tokens: torch.Tensor) -> None:
    """Rates are those of the steps that were recorded, and no recording is counted twice or mixed."""
    model = spikeconv.load(converted("llama"))
    with spikeconv.record_spikes(model, trains=Q) as spikes:
        model(tokens)
        with pytest.raises(SpikeconvError, match="being recorded already"):
            spikes.__enter__()
    rate, train = spikes.firing_rate, spikes.train(Q)
    spikeconv.set_steps(model, 16)
    assert spikes.firing_rate == rate and spikes[Q].virtual_steps == 8 and torch.equal(spikes.train(Q), train)
    with pytest.raises(SpikeconvError, match="settings were changed"), spikes:
        pass
    assert not any(linear.encoder.observers for linear in spike_linears(model).values())


@pytest.mark.parametrize("wrong", [None, "a/path"])
def test_what_is_no_model(wrong: Any) -> None:
    for call in (spikeconv.record_spikes, spikeconv.verify, lambda model: spikeconv.set_steps(model, 8)):
        if wrong is None or call is not spikeconv.verify:
            with pytest.raises(SpikeconvError, match="is no model"):
                call(wrong)


def test_a_compiled_model_is_the_model_inside(converted: Fixture, tokens: torch.Tensor) -> None:
    model = spikeconv.load(converted("llama"))
    compiled: Any = torch.compile(model, backend="eager")
    spikeconv.set_steps(compiled, 16)
    with spikeconv.record_spikes(compiled) as spikes:
        model(tokens)
    assert spikes[Q].virtual_steps == 16 and spikeconv.verify(compiled, tokens=4, source=False).clean
    with pytest.raises(SpikeconvError, match="has no config"):
        spikeconv.record_spikes(torch.nn.Sequential(model))
