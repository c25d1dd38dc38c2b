"""Latency and traffic of codes, however neurons fire: the spikes stay the same."""

import pytest
import torch

from spikeconv.codecs import CountCodec, codec_of
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.record.record import LayerRecord
from spikeconv.report.traffic import parse_firing, traffic


def layer(tokens: int, histogram: dict[int, int], **settings: object) -> LayerRecord:
    inputs = sum(histogram.values())
    size = inputs // tokens
    scheme = SpikeConfig.parse(settings)
    return LayerRecord("l", "q", size, 4, scheme, tokens, inputs, 1, histogram, 0, 0)


def test_spikes_stay_and_steps_follow() -> None:
    histogram = {-8: 3, -2: 7, 0: 20, 1: 9, 5: 11}
    for code, slots in (("unary", 8), ("binary", 4), ("signed-digit", 4), ("ramp", 8)):
        record = layer(10, histogram, bits="4-1.58", temporal_code=code)
        for firing, steps in (("sync", slots), ("async", 1), (3, -(-slots // 3)), (100, 1)):
            found = traffic(record, firing)
            assert found is not None and found.latency == steps == len(found.steps), (code, firing)
            assert sum(found.steps) * 10 == pytest.approx(record.spikes)
            assert found.peak == max(found.steps) and found.mean == pytest.approx(sum(found.steps) / steps)
    unary = traffic(layer(10, histogram, bits="4-1.58"), "sync")
    assert unary is not None
    fires = [sum(times for count, times in histogram.items() if abs(count) > slot) / 10 for slot in range(8)]
    assert list(unary.steps) == pytest.approx(fires)  # what is above t fires in slot t


def test_gaussian_inputs_have_the_known_traffic() -> None:
    """4096 inputs, clip .9: spikes per input, and the share of them that fires in the first slot."""
    x = torch.randn(64, 4096)
    for bits, spikes, first in ((4, 1.62, 0.81), (5, 3.51, 0.91), (6, 7.26, 0.96)):
        config = SpikeConfig.parse({"bits": "4-1.58", "steps": 1 << bits - 1})
        codec = codec_of(config.inputs)
        assert isinstance(codec, CountCodec)
        values, times = codec.encode(x).counts.unique(return_counts=True)
        record = layer(64, dict(zip(values.tolist(), times.tolist(), strict=True)), bits="4-1.58", steps=1 << bits - 1)
        slots, burst = traffic(record, "sync"), traffic(record, "async")
        assert slots is not None and burst is not None
        assert record.spikes_per_input == pytest.approx(spikes, rel=0.02)
        assert slots.steps[0] / 4096 == pytest.approx(first, abs=0.01)
        assert burst.peak / 4096 == pytest.approx(spikes, rel=0.02)


def test_what_sends_none_and_what_is_no_firing() -> None:
    assert traffic(layer(1, {0: 4}, bits="4-4"), "sync") is None
    elastic = SpikeConfig.parse({"codec": "elastic", "time_steps": 4})
    neurons = LayerRecord("l", "q", 4, 4, elastic, 2, 8, 4, {1: 16, 0: 16}, 0, 0)
    found = traffic(neurons, "sync")
    assert found is not None and found.latency == 4 and found.steps == (2.0,) * 4
    assert parse_firing("sync") == "sync" and parse_firing("12") == 12
    for text in ("0", "-1", "fast", "1.5", "", "999999"):
        with pytest.raises(SpikeconvError, match="sync, async, or a number of slots"):
            parse_firing(text)
