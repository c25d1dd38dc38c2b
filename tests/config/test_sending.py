"""Which counts there are follows from the code that sends them, and from how a count's step is chosen."""

import re
from itertools import product

import pytest
import torch

from spikeconv.codecs import CountCodec, codec_of
from spikeconv.codes import code_for
from spikeconv.config import CountInputs, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.ops import EncodeSettings
from spikeconv.sources.presets import load_scheme


def test_counts_follow_the_code() -> None:
    """What the slots reach is said once, whatever was overlaid on what."""
    rms = {"count_scale": "rms", "temporal_code": "ramp", "slots": 24}
    for layers, low, high, one_spike in (
        ([rms], -300, 300, None),
        ([rms, {"slots": 16, "dead_zone": 0.2}], -136, 136, 16),
        ([{**rms, "dead_zone": 0.2}, {"slots": 8}], -36, 36, 8),
        ([rms, {"temporal_code": "unary", "slots": "none"}], -8, 8, None),
        ([{"temporal_code": "ramp", "slots": 3, "slot_overflow": "clip"}], -6, 6, None),
        ([{"temporal_code": "ramp", "slots": 10, "slot_overflow": "clip"}], -8, 7, None),
        ([{"temporal_code": "ramp", "slots": 3, "slot_overflow": "clip"}, {"slots": 10}], -8, 7, None),
    ):
        parsed = SpikeConfig.parse(*layers)
        again = SpikeConfig.parse(parsed.model_dump(mode="json"))
        for config in (parsed, again):
            inputs = config.inputs
            assert isinstance(inputs, CountInputs)
            assert (inputs.count_min, inputs.count_max, inputs.one_spike) == (low, high, one_spike), layers
    overridden = SpikeConfig.parse({**rms, "overrides": [{"pattern": "o", "settings": {"slots": 32}}]})
    scheme = overridden.for_linear("x.o_proj", "o")
    assert scheme is not None and isinstance(scheme.inputs, CountInputs) and scheme.inputs.count_max == 528


def test_the_encoder_takes_what_follows_from_the_code() -> None:
    """Slots may be fewer than the largest count, as many, or more: one spike's count is never beyond the range."""
    for slots, count_range in product(range(4, 12), ("standard", "full")):
        ramp = {"temporal_code": "ramp", "slots": slots, "dead_zone": 0.2, "count_range": count_range}
        inputs = SpikeConfig.parse(ramp).inputs
        assert isinstance(inputs, CountInputs) and inputs.one_spike == (slots if slots < 8 else None)
        settings = CountCodec.of(inputs).settings(None)
        assert EncodeSettings.of(settings.table()) == settings


def test_another_scale_brings_its_own_defaults() -> None:
    rms = SpikeConfig.parse({"clip_ratio": 0.8}, {"count_scale": "rms", "temporal_code": "ramp", "slots": 24}).inputs
    assert isinstance(rms, CountInputs) and (rms.step, rms.clip_ratio) == (0.085, 1.0)
    back = SpikeConfig.parse({"count_scale": "rms", "step": 0.1}, {"count_scale": "max"}).inputs
    assert isinstance(back, CountInputs) and (back.step, back.clip_ratio) == (None, 0.9)


def test_how_counts_are_sent_is_said() -> None:
    for values, text in (
        ({}, "T'=8"),
        ({"temporal_code": "ramp"}, "ramp code of 8 slots, counts up to 8"),
        ({"temporal_code": "ramp", "slots": 24, "count_scale": "rms"}, "ramp code of 24 slots, counts up to 300"),
        (
            {"temporal_code": "ramp", "slots": 3, "slot_overflow": "clip"},
            "ramp code of 3 slots, counts up to 6, clipped there by the slots",
        ),
    ):
        assert SpikeConfig.parse(values).sending == text


def test_steps_and_dead_zones_that_cannot_be() -> None:
    for values, sentence in (
        ({"step": 0.1}, "step is a setting of scale=rms and mean"),
        ({"bits": "4-1", "count_scale": "mean"}, "signed counts, not binary"),
        ({"count_scale": "rms", "step": 0}, "inputs.step: must be greater than 0"),
        ({"dead_zone": -0.1}, "inputs.dead_zone: must be greater than or equal to 0"),
        ({"bits": "4-1", "dead_zone": 0.1}, "signed counts, not binary"),
        ({"bits": "4-1", "count_scale": "rms"}, "signed counts, not binary"),
        ({"slot_overflow": "clip"}, "needs ramp with a number of slots"),
        ({"temporal_code": "ramp", "slots": 3}, "take at least 4 slots"),
    ):
        with pytest.raises(SpikeconvError, match=re.escape(sentence)):
            SpikeConfig.parse(values)


def test_spikingbrain_s_rule() -> None:
    """A third of the mean magnitude is one count, whatever the scheme says of clipping, and every digit can be sent."""
    scheme = SpikeConfig.parse(load_scheme("spikingbrain-8-1.58"))
    inputs = scheme.inputs
    assert (inputs.scale, inputs.clip_ratio, inputs.count_min, inputs.count_max) == ("mean", 1, -1024, 1024)
    assert inputs.step == pytest.approx(1 / 3) and scheme.rotation.is_none and scheme.weights.bits == 8
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1, 1, 1, 1e3])[:, None]
    x[2, 7] = 300.0  # not clipped
    encoded = codec_of(inputs).encode(x)
    third = x.abs().mean(-1, keepdim=True) / 3
    torch.testing.assert_close(encoded.scale, third, rtol=1e-6, atol=0)
    assert torch.equal(encoded.counts.int(), (x / third).round().int())
    train = codec_of(inputs).unfold(encoded.counts, code_for(scheme.code))
    weights = torch.tensor([1 << digit for digit in reversed(range(len(train)))])
    assert torch.equal((train.long() * weights.view(-1, 1, 1)).sum(0), encoded.counts.long())
