"""Scheme names, short forms, skips and overrides."""

from typing import Any

import pytest
from pydantic import ValidationError

from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError


@pytest.mark.parametrize(
    ("settings", "weight_bits", "count_bits", "steps", "low", "high"),
    [
        ({"bits": "4-1.58"}, 4, 4, 8, -8, 7),
        ({"bits": "4-1.58", "steps": 8}, 4, 4, 8, -8, 7),
        ({"bits": "4-1.58", "steps": 16}, 4, 5, 16, -16, 15),
        ({"bits": "4-1.58", "steps": 32}, 4, 6, 32, -32, 31),
        ({"bits": "4-1.58", "count_range": "full"}, 4, 4, 8, -8, 8),
        ({"bits": "6-1.58"}, 6, 6, 32, -32, 31),
        ({"bits": "8-1.58"}, 8, 8, 128, -128, 127),
        ({"bits": "16-1.58"}, 16, 4, 8, -8, 7),
        ({"bits": "4-1"}, 4, 4, 15, 0, 15),
        ({"bits": "4-1", "steps": 31}, 4, 5, 31, 0, 31),
        ({"bits": "6-1"}, 6, 6, 63, 0, 63),
        ({"bits": "4-4"}, 4, 4, 1, -8, 7),
        ({"bits": "8-8"}, 8, 8, 1, -128, 127),
        ({"steps": 16}, 4, 5, 16, -16, 15),
        ({"spikes": "binary", "steps": 63}, 4, 6, 63, 0, 63),
    ],
)
def test_bits_and_steps(
    settings: dict[str, Any], weight_bits: int, count_bits: int, steps: int, low: int, high: int
) -> None:
    config = SpikeConfig.parse(settings)
    assert (config.weight_bits, config.count_bits, config.virtual_steps) == (weight_bits, count_bits, steps)
    assert (config.count_min, config.count_max) == (low, high)
    assert config.symmetric == (low < 0)


@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "6-1.58", "6-1", "4-4", "8-8", "16-1.58", "4-16", "16-16", "3-5"])
def test_bits_name_round_trip(bits: str) -> None:
    assert SpikeConfig.parse({"bits": bits}).bits == bits


@pytest.mark.parametrize("bits", ["4-16", "16-16"])
def test_float_activations_have_no_counts(bits: str) -> None:
    config = SpikeConfig.parse({"bits": bits})
    assert config.spikes == "float" and config.count_bits == 16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": "four"}, ["4-1.58", "'four'"]),
        ({"bits": "4"}, ["4-1.58", "'4'"]),
        ({"bits": "4-3.14"}, ["'4-3.14'"]),
        ({"bits": "4-9"}, ["'4-9'"]),
        ({"bits": "1-1.58"}, ["weight_bits", "2 to 8"]),
        ({"bits": "9-1"}, ["weight_bits", "2 to 8"]),
        ({"codec": "multihead", "layers": 8}, ["layers", "7"]),
        ({"codec": "multihead", "integer_digits": 4}, ["integer_digits is 4", "3 layers"]),
        ({"codec": "multihead", "steps": 8}, ["steps", "time_steps"]),
        ({"codec": "repetition", "bits": "4-1"}, ["codec=repetition", "W-1.58"]),
        ({"codec": "repetition", "time_steps": 128}, ["time_steps", "127"]),
        ({"codec": "digits"}, ["codec", "multihead"]),
        ({"bits": "4-1.58", "steps": 12}, ["steps", "16", "not 12"]),
        ({"bits": "4-1.58", "steps": 0}, ["steps", "not 0"]),
        ({"bits": "4-1.58", "steps": -8}, ["steps", "not -8"]),
        ({"bits": "4-1.58", "steps": 256}, ["steps", "not 256"]),
        ({"bits": "4-1", "steps": 16}, ["steps", "15", "not 16"]),
        ({"bits": "4-4", "steps": 8}, ["steps", "ternary"]),
        ({"spikes": "integer", "steps": 8}, ["steps", "ternary"]),
        ({"spikes": "float"}, ["count_bits=16"]),
        ({"count_bits": 16}, ["spikes=float"]),
        ({"bits": "4-1", "count_range": "full"}, ["count_range=full", "signed"]),
        ({"clip_ratio": 0}, ["clip_ratio"]),
        ({"clip_ratio": 1.5}, ["clip_ratio"]),
        ({"rotation": "fourier"}, ["rotation", "gamma-sqp"]),
        ({"seed": -1}, ["seed"]),
        ({"seed": 2**32}, ["seed"]),
        ({"clip": 0.9}, ["clip", "known fields", "clip_ratio", "steps"]),
        ({"overrides": [{"pattern": "q", "settings": {"weight_bits": 9}}]}, ["q", "weight_bits", "2 to 8"]),
        ({"overrides": [{"pattern": "q", "settings": {"colour": 1}}]}, ["q", "colour"]),
        ({"overrides": [{"pattern": "q", "settings": {"rotation": "quarot"}}]}, ["q", "rotation=quarot"]),
        (
            {"rotation": "quarot", "overrides": [{"pattern": "q", "settings": {"rotation": "none"}}]},
            ["q", "rotation=quarot"],
        ),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpikeconvError) as caught:
        SpikeConfig.parse(settings)
    sentence = str(caught.value)
    assert "\n" not in sentence and "validation error" not in sentence
    assert all(word in sentence for word in words), sentence


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        SpikeConfig().seed = 1  # type: ignore[misc]


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
                {"pattern": "*.1.*", "settings": {"weight_bits": 8, "clip_ratio": 0.8}},
            ],
        }
    )
    plain = config.for_linear("model.layers.0.mlp.up_proj", "up")
    down = config.for_linear("model.layers.0.mlp.down_proj", "down")
    both = config.for_linear("model.layers.1.mlp.down_proj", "down")
    assert plain and down and both
    assert (plain.weight_bits, plain.virtual_steps) == (4, 8)
    assert (down.weight_bits, down.virtual_steps, down.clip_ratio) == (6, 32, 0.9)
    assert (both.weight_bits, both.virtual_steps, both.clip_ratio, both.seed) == (8, 32, 0.8, 3)


def test_steps_of_an_override_mean_the_spikes_of_the_whole() -> None:
    override = {"pattern": "q", "settings": {"steps": 31}}
    scheme = SpikeConfig.parse({"bits": "4-1", "overrides": [override]}).for_linear("q_proj", "q")
    assert scheme is not None and scheme.virtual_steps == 31 and scheme.spikes == "binary"


@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "8-8", "16-16"])
def test_dump_parses_to_itself(bits: str) -> None:
    overrides = [{"pattern": "down", "settings": {"weight_bits": 8}}]
    config = SpikeConfig.parse({"bits": bits, "skip": ["o"], "overrides": overrides, "seed": 7})
    assert SpikeConfig.parse(config.model_dump(mode="json")) == config


def test_only_what_changes_the_encoding_separates_encoders() -> None:
    base = SpikeConfig()
    assert base.encoding == SpikeConfig(weight_bits=8, weight_clip="none").encoding
    others = [{"clip_ratio": 0.8}, {"seed": 1}, {"count_range": "full"}, {"steps": 16}, {"rotation": "none"}]
    assert all(SpikeConfig.parse(other).encoding != base.encoding for other in others)
