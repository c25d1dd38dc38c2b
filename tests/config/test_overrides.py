"""Settings on top of others: what is skipped, overrides, and layers of them."""

import pytest

from spikeconv.config import (
    CountInputs,
    FloatInputs,
    KvSettings,
    LinearScheme,
    SpikeConfig,
)
from spikeconv.config.code import CodeSettings
from spikeconv.errors import SpikeconvError


def test_skip_by_role_and_by_pattern() -> None:
    config = SpikeConfig(skip=("down", "model.layers.0.*"))
    assert config.for_linear("model.layers.1.mlp.down_proj", "down") is None
    assert config.for_linear("model.layers.0.self_attn.q_proj", "q") is None
    assert config.for_linear("model.layers.1.self_attn.q_proj", "q") is not None
    assert config.for_linear("model.layers.10.self_attn.q_proj", "q") is not None


def test_last_override_wins_and_keeps_the_rest() -> None:
    config = SpikeConfig.parse(
        {
            "bits": "4-1.58",
            "seed": 3,
            "overrides": [
                {"pattern": "down", "settings": {"bits": "6-1.58"}},
                {"pattern": "*.1.*", "settings": {"weights.bits": 8, "inputs": {"clip_ratio": 0.8}}},
            ],
        }
    )
    plain = config.for_linear("model.layers.0.mlp.up_proj", "up")
    down = config.for_linear("model.layers.0.mlp.down_proj", "down")
    both = config.for_linear("model.layers.1.mlp.down_proj", "down")
    assert plain and down and both
    assert plain == LinearScheme.model_validate({"seed": 3})
    assert down == LinearScheme.model_validate({"bits": "6-1.58", "seed": 3})
    assert both == LinearScheme.model_validate({"bits": "8-1.58", "steps": 32, "clip_ratio": 0.8, "seed": 3})


def test_steps_of_an_override_mean_the_spikes_of_the_whole() -> None:
    override = {"pattern": "q", "settings": {"steps": 31}}
    scheme = SpikeConfig.parse({"bits": "4-1", "overrides": [override]}).for_linear("q_proj", "q")
    assert scheme is not None and scheme.inputs == CountInputs(bits=5, spikes="binary")


def test_later_layers_stand_on_earlier_ones() -> None:
    for layers, bits, inputs in (
        ([{"bits": "4-1"}, {"steps": 31}], "4-1", CountInputs(spikes="binary", bits=5)),
        ([{"bits": "4-1.58", "steps": 16}, {"bits": "6-1.58"}], "6-1.58", CountInputs(bits=6)),
        ([{"inputs.clip_ratio": 0.7}, {"bits": "4-4"}], "4-4", CountInputs(spikes="integer", clip_ratio=0.7)),
        ([{"inputs.clip.mode": "relu", "clip_ratio": 0.7}, {"bits": "4-16"}, {"inputs.clip": "none"}],
         "4-16", FloatInputs(codec="float")),
        ([{"codec": "multihead", "layers": 4}, {"bits": "4-1.58"}, {"codec": "count"}], "4-1.58", CountInputs()),
    ):  # fmt: skip
        config = SpikeConfig.parse(*layers)
        assert (config.bits, config.inputs) == (bits, inputs)
    several = SpikeConfig.parse({"codec": "multihead", "time_steps": 4, "layers": 5}, {"codec": "repetition"})
    assert several.bits == "16-T4" and several.rotation.is_none  # what both codecs have stays
    kept = SpikeConfig.parse({"inputs.clip.quantile": 0.3}, {"bits": "4-16"})
    assert kept.clip is not None and kept.clip.quantile == 0.3
    assert SpikeConfig.parse({"kv_bits": 4}, {"kv_group": 8}).kv == KvSettings(bits=4, group=8)
    ramp = SpikeConfig.parse({"kv_bits": 4, "kv_code": "ramp", "kv_slots": 4}, {"kv_slots": "none"}).kv
    assert ramp == KvSettings(bits=4, code=CodeSettings(kind="ramp"))
    for nothing in ({"kv_bits": "none"}, {"kv_bits": 16}, {"kv": "none"}, {"kv": None}):
        assert SpikeConfig.parse({"kv_bits": 4, "kv_group": 8}, nothing).kv is None


def test_overrides_may_need_each_other_but_not_contradict() -> None:
    multihead = {"pattern": "q", "settings": {"codec": "multihead"}}
    layers = {"pattern": "*q*", "settings": {"inputs.layers": 4}}
    scheme = SpikeConfig.parse({"overrides": [multihead, layers]}).for_linear("q_proj", "q")
    assert scheme is not None and scheme.bits == "4-4L" and scheme.rotation.kind == "gamma-sqp"
    full = {"pattern": "*q*", "settings": {"count_range": "full"}}
    config = SpikeConfig.parse({"overrides": [{"pattern": "q", "settings": {"bits": "4-1"}}, full]})
    assert config.for_linear("qk", "k") is not None
    with pytest.raises(SpikeconvError, match=r"overrides of q_proj.*range=full"):
        config.for_linear("q_proj", "q")
