"""Step two: spikes are single events and sum to the counts over T' steps."""

import pytest
import torch

from spikeconv.codecs import CountCodec
from spikeconv.config import CountInputs, SpikeConfig

SETTINGS = [
    {"bits": "4-1.58"},
    {"bits": "4-1.58", "count_range": "full"},
    {"bits": "4-1.58", "steps": 16},
    {"bits": "6-1.58"},
    {"bits": "8-1.58"},
    {"bits": "8-1.58", "count_range": "full"},
    {"bits": "4-1"},
    {"bits": "6-1"},
    {"bits": "8-1"},
    {"bits": "4-4"},
    {"bits": "8-8"},
]


@pytest.fixture(params=SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def inputs(request: pytest.FixtureRequest) -> CountInputs:
    parsed = SpikeConfig.parse(request.param).inputs
    assert isinstance(parsed, CountInputs)
    return parsed


def test_largest_count_is_the_number_of_steps(inputs: CountInputs) -> None:
    codec = CountCodec.of(inputs)
    assert codec.largest_count == max(abs(inputs.count_min), abs(inputs.count_max))
    assert codec.virtual_steps == (1 if inputs.spikes == "integer" else codec.largest_count)


def test_spikes_sum_to_every_count(inputs: CountInputs, device: torch.device) -> None:
    codec = CountCodec.of(inputs)
    dtype = torch.int8 if inputs.count_max <= 127 else torch.int16
    counts = torch.arange(inputs.count_min, inputs.count_max + 1, device=device).to(dtype)
    train = codec.unfold(counts)
    assert train.shape == (codec.largest_count, *counts.shape) and train.dtype == torch.int8
    assert set(train.unique().tolist()) <= ({-1, 0, 1} if inputs.symmetric else {0, 1})
    assert torch.equal(train.long().sum(0), counts.long())
    assert torch.equal(train.long().abs().sum(0), counts.long().abs())  # no spike cancels another


def test_decode_is_near_the_membrane_potential(inputs: CountInputs, device: torch.device) -> None:
    codec = CountCodec.of(inputs.model_copy(update={"clip_ratio": 1.0}))
    u = torch.randn(6, 129, device=device)
    spikes = codec.encode(u)
    assert (spikes.zero_point is None) == inputs.symmetric
    assert ((spikes.decode() - u).abs() <= spikes.scale * 0.501).all()
