"""Scheme names, short forms, skips and overrides."""

from typing import Any

import pytest
from pydantic import ValidationError

from spikeconv.config import (
    CountInputs,
    FloatInputs,
    RotationSettings,
    SpikeConfig,
    parse_settings,
)
from spikeconv.config.parsing import known_paths
from spikeconv.errors import SpikeconvError

COUNTS: list[tuple[dict[str, Any], int, int, int, int, int]] = [
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
    ({"inputs.spikes": "binary", "steps": 63}, 4, 6, 63, 0, 63),
]
"""Settings, with bits of weights and counts, T', and the smallest and largest count."""


def test_bits_and_steps() -> None:
    for settings, weight_bits, count_bits, steps, low, high in COUNTS:
        config = SpikeConfig.parse(settings)
        inputs = config.inputs
        assert isinstance(inputs, CountInputs)
        assert (config.weights.bits, inputs.bits, inputs.virtual_steps) == (weight_bits, count_bits, steps), settings
        assert (inputs.count_min, inputs.count_max, inputs.largest_count) == (low, high, max(-low, high)), settings
        assert inputs.symmetric == (low < 0), settings


def test_bits_name_round_trip() -> None:
    names = ("4-1.58", "4-1", "6-1.58", "6-1", "4-4", "8-8", "16-1.58", "4-16", "16-16", "3-5", "1-1.58", "1.58-4")
    for bits in names:
        assert SpikeConfig.parse({"bits": bits}).bits == bits


def test_float_activations_have_no_counts() -> None:
    for bits in ("4-16", "16-16"):
        assert SpikeConfig.parse({"bits": bits}).inputs == FloatInputs(codec="float")


def test_neurons_leave_weights_float_and_rotate_nothing() -> None:
    elastic = SpikeConfig.parse({"codec": "elastic", "time_steps": 4})
    assert (elastic.bits, elastic.time_steps, elastic.rotation.is_none, elastic.weights.is_float) == (
        "16-E4",
        4,
        True,
        True,
    )
    assert SpikeConfig.parse({"codec": "elastic", "bits": "1-1.58"}).bits == "1-E1"
    assert SpikeConfig.parse({"codec": "lif", "bits": "4-1", "time_steps": 2}).bits == "4-L2"
    assert SpikeConfig.parse({"codec": "elastic", "inputs.spikes": "binary", "bits": "4-1"}).bits == "4-E1+"
    for role, outputs in (("k", "neuron"), ("v", "neuron"), ("q", "plain"), ("down", "plain")):
        assert elastic.outputs_of(role, elastic) == outputs


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"bits": "four"}, ["4-1.58", "'four'"]),
    ({"bits": "4"}, ["4-1.58", "'4'"]),
    ({"bits": "4-3.14"}, ["'4-3.14'"]),
    ({"bits": "4-9"}, ["'4-9'"]),
    ({"bits": "0-1.58"}, ["weights.bits", "2 to 8"]),
    ({"weights": "sign"}, ["method=sign", "2 bits", "not 4"]),
    ({"codec": "elastic", "k": 0}, ["inputs.k", "0"]),
    ({"codec": "elastic", "k": -2}, ["inputs.k", "-2"]),
    ({"codec": "elastic", "time_steps": 0}, ["time_steps", "0"]),
    ({"codec": "elastic", "time_steps": 17}, ["time_steps", "16"]),
    ({"codec": "elastic", "steps": 8}, ["steps", "time_steps"]),
    ({"codec": "elastic", "bits": "4-1"}, ["codec=elastic", "W-1.58"]),
    ({"codec": "lif", "bits": "4-1.58"}, ["codec=lif", "binary", "W-1,"]),
    ({"codec": "lif", "k": 2}, ["inputs.k", "codec=elastic", "not lif"]),
    ({"codec": "elastic", "code": "ramp"}, ["codec=elastic", "code=ramp"]),
    ({"codec": "elastic", "bits": "4-1.58", "balance": "sqrt"}, ["balance", "codec=elastic"]),
    ({"codec": "elastic", "bits": "4-1.58", "weights": "gptq"}, ["codec=elastic", "rtn"]),
    ({"codec": "elastic", "kv_bits": 4}, ["kv_bits", "neurons of their own"]),
    (
        {"codec": "elastic", "overrides": [{"pattern": "q", "settings": {"time_steps": 4}}]},
        ["q", "time_steps is 4", "same streams"],
    ),
    ({"bits": "9-1"}, ["weights.bits", "2 to 8"]),
    ({"codec": "multihead", "layers": 8}, ["layers", "7"]),
    ({"codec": "multihead", "integer_digits": 4}, ["integer_digits is 4", "3 layers"]),
    ({"codec": "multihead", "steps": 8}, ["steps", "time_steps"]),
    ({"codec": "repetition", "bits": "4-1"}, ["codec=repetition", "W-1.58"]),
    ({"codec": "repetition", "time_steps": 128}, ["time_steps", "127"]),
    ({"codec": "multihed"}, ["inputs.codec", "repetition", "Did you mean multihead?"]),
    ({"codec": "float", "bits": "4-4"}, ["bits", "codec=float"]),
    ({"bits": "4-1.58", "steps": 12}, ["steps", "16", "not 12"]),
    ({"bits": "4-1.58", "steps": 0}, ["steps", "not 0"]),
    ({"bits": "4-1.58", "steps": -8}, ["steps", "not -8"]),
    ({"bits": "4-1.58", "steps": 256}, ["steps", "not 256"]),
    ({"bits": "4-1", "steps": 16}, ["steps", "15", "not 16"]),
    ({"bits": "4-4", "steps": 8}, ["steps", "ternary"]),
    ({"inputs.spikes": "integer", "steps": 8}, ["steps", "ternary"]),
    ({"bits": "4-16", "inputs.clip_ratio": 0.9}, ["inputs.clip_ratio", "codec=count", "not float"]),
    ({"layers": 3}, ["inputs.layers", "codec=multihead", "not count"]),
    ({"time_steps": 3}, ["inputs.time_steps", "multihead, repetition, elastic or lif", "not count"]),
    ({"codec": "multihead", "inputs.bits": 4}, ["inputs.bits", "codec=count", "not multihead"]),
    ({"codec": "repetition", "inputs.clip.mode": "relu"}, ["inputs.clip", "count or float", "not repetition"]),
    ({"inputs.clip.mode": "relu", "rotation": "quarot"}, ["inputs.clip", "QuaRot"]),
    ({"inputs": 4}, ["inputs", "4"]),
    ({"inputs": None}, ["inputs", "None"]),
    ({"weights": ["mse"]}, ["weights", "mse"]),
    ({"weights": {"bitz": 4}}, ["weights.bitz", "Did you mean weights.bits?", "weights.method"]),
    ({"weights.method": "gptx"}, ["weights.method", "rtn", "Did you mean gptq?"]),
    ({"weights": "hessian"}, ["weights.method", "'hessian'"]),
    ({"weights": "gptq", "damping": -0.1}, ["weights.damping", "-0.1"]),
    ({"weights": "rtn", "bias_correction": "mean"}, ["bias_correction", "gptq, gptaq or qronos"]),
    ({"weights": "gptq", "inputs.clip.quantile": 0.5}, ["inputs.clip needs weights=rtn"]),
    ({"weight_bits": 4}, ["weight_bits", "Did you mean weights.bits?"]),
    ({"clipratio": 0.8}, ["clipratio", "Did you mean clip_ratio?", "inputs.clip_ratio"]),
    ({"quantile": 0.8}, ["quantile", "Did you mean inputs.clip.quantile?"]),
    ({"kv_range": "asymmetric"}, ["kv.bits", "missing"]),
    ({"kv_bits": 9}, ["kv.bits", "8"]),
    ({"kv_code": "ramp"}, ["kv.bits", "missing"]),
    ({"kv_bits": 4, "kv_code": "rampe"}, ["kv.code.kind", "ramp", "rampe"]),
    ({"kv_bits": 4, "kv_code": "binary", "kv_slots": 8}, ["kv", "slots", "ramp", "binary"]),
    ({"kv_bits": 4, "kv_slots": 8}, ["kv", "slots", "ramp", "unary"]),
    ({"kv_bits": 6, "kv_code": "ramp", "kv_slots": 7}, ["kv", "7 slots", "up to 28, not 32", "at least 8 slots"]),
    (
        {"kv_bits": 4, "kv_range": "asymmetric", "kv_code": "ramp", "kv_slots": 4},
        ["kv", "up to 10, not 15", "at least 5 slots"],
    ),
    ({"kv_bits": 4, "kv_code": "ramp", "kv_slots": 2, "kv.code.overflow": "clip"}, ["kv", "overflow=clip", "linears"]),
    ({"kv_steps": 3}, ["kv_steps", "4", "not 3"]),
    ({"kv": {"bits": 4, "seed": 1}}, ["kv.seed", "kv.range"]),
    ({"overrides": [{"pattern": "q", "settings": {"kv_bits": 4}}]}, ["override q", "kv"]),
    ({"overrides": [{"pattern": "q"}]}, ["overrides.0.settings", "missing"]),
    ({"overrides": {"q": 1}}, ["overrides"]),
    ({"code": "ternary"}, ["code.kind", "unary", "binary", "signed-digit", "ramp"]),
    ({"code": "binary", "slots": 4}, ["slots", "ramp", "binary"]),
    ({"code": "ramp", "slots": 65}, ["code.slots", "64"]),
    ({"code": "ramp", "slots": 4, "steps": 32}, ["ramp with 4 slots", "up to 10, not 32", "at least 8 slots"]),
    ({"bits": "4-1", "count_range": "full"}, ["range=full", "signed"]),
    ({"clip_ratio": 0}, ["clip_ratio"]),
    ({"clip_ratio": 1.5}, ["clip_ratio"]),
    ({"rotation": "fourier"}, ["rotation.kind", "gamma-sqp"]),
    ({"seed": -1}, ["seed"]),
    ({"seed": 2**32}, ["seed"]),
    ({"clip": 0.9}, ["clip", "known", "inputs.clip_ratio", "steps"]),
    ({"overrides": [{"pattern": "q", "settings": {"weights.bits": 9}}]}, ["q", "weights.bits", "2 to 8"]),
    ({"overrides": [{"pattern": "q", "settings": {"colour": 1}}]}, ["q", "colour"]),
    ({"overrides": [{"pattern": "q", "settings": {"rotation": "quarot"}}]}, ["q", "rotation=quarot"]),
    (
        {"rotation": "quarot", "overrides": [{"pattern": "q", "settings": {"rotation": "none"}}]},
        ["q", "rotation=quarot"],
    ),
]


def test_bad_settings_are_one_sentence() -> None:
    for settings, words in BAD:
        with pytest.raises(SpikeconvError) as caught:
            SpikeConfig.parse(settings)
        sentence = str(caught.value)
        assert "\n" not in sentence and "validation error" not in sentence
        assert all(word in sentence for word in words), sentence


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        SpikeConfig().rotation = RotationSettings()  # type: ignore[misc]


@pytest.mark.parametrize("bits", ["4-1.58", "4-1", "8-8", "16-16"])
def test_dump_parses_to_itself(bits: str) -> None:
    overrides = [{"pattern": "down", "settings": {"weights.bits": 8}}]
    config = SpikeConfig.parse({"bits": bits, "skip": ["o"], "overrides": overrides, "seed": 7})
    assert SpikeConfig.parse(config.model_dump(mode="json")) == config


def test_only_what_changes_the_encoding_separates_encoders() -> None:
    base = SpikeConfig()
    assert base.encoding == SpikeConfig.parse({"weights": {"bits": 8, "clip": "none"}}).encoding
    others = [{"clip_ratio": 0.8}, {"seed": 1}, {"count_range": "full"}, {"steps": 16}, {"rotation": "none"}]
    others += [
        {"code": "binary"},
        {"code": "ramp"},
        {"code": "ramp", "slots": 5},
        {"inputs.clip.quantile": 0.1},
        {"codec": "repetition"},
    ]
    assert all(SpikeConfig.parse(other).encoding != base.encoding for other in others)


def test_every_way_to_write_a_setting_is_the_same() -> None:
    """Nested, dotted, short, mixed; and what `config.json` holds is nested."""
    expected = {
        "weights": {
            "bits": 4,
            "method": "rtn",
            "clip": "none",
            "damping": 0.2,
            "importance": "equal",
            "residual": True,
            "bias_correction": "none",
        },
        "inputs": {
            "codec": "count",
            "bits": 5,
            "spikes": "ternary",
            "range": "full",
            "scale": "max",
            "step": None,
            "dead_zone": 0.2,
            "clip_ratio": 0.8,
            "clip": {"mode": "shifted", "quantile": 0.6},
            "reach": 21,
            "one_spike": 6,
        },
        "rotation": {"kind": "none", "seed": 7},
        "code": {"kind": "ramp", "slots": 6, "overflow": "clip"},
        "balance": "sqrt",
        "kv": {
            "bits": 4,
            "range": "asymmetric",
            "low_share": None,
            "group": 8,
            "code": {"kind": "ramp", "slots": 5, "overflow": "error"},
        },
        "skip": ["o"],
        "overrides": [{"pattern": "q", "settings": {"weights": {"bits": 6}, "rotation": {"seed": 1}}}],
    }
    clip = {"mode": "shifted", "quantile": 0.6}
    override: dict[str, Any] = {"pattern": "q", "settings": {"weights.bits": 6, "seed": 1}}
    shared: dict[str, Any] = {"skip": "o", "overrides": [override]}
    short = {
        "bits": "4-1.58", "steps": 16, "count_range": "full", "clip_ratio": 0.8, "weight_clip": "none",
        "weights": "rtn", "damping": 0.2, "residual": True,
        "rotation": "none", "seed": 7, "temporal_code": "ramp", "slots": 6, "slot_overflow": "clip",
        "count_scale": "max", "dead_zone": 0.2, "balance": "sqrt", "kv_steps": 15,
        "kv_range": "asymmetric", "kv_group": 8, "kv_code": "ramp", "kv_slots": 5, "inputs.clip": clip, **shared,
    }  # fmt: skip
    dotted = {
        "weights.clip": "none", "weights.damping": 0.2, "weights": {"residual": True}, "inputs.bits": 5,
        "inputs": {"range": "full", "clip_ratio": 0.8, "clip.mode": "shifted", "dead_zone": 0.2},
        "code.overflow": "clip",
        "inputs.clip.quantile": 0.6, "rotation.kind": "none", "rotation.seed": 7, "code.kind": "ramp", "code.slots": 6,
        "balance": "sqrt",
        "kv": {"bits": 4, "code": "ramp"}, "kv.range": "asymmetric", "kv.group": 8, "kv.code.slots": 5, **shared,
    }  # fmt: skip
    for values in (expected, short, dotted):
        assert SpikeConfig.parse(values).model_dump(mode="json") == expected


def test_accumulators_are_bounded() -> None:
    """|acc| ≤ largest count · 2^(weight bits - 1) · in_features stays below 2^31."""
    for settings, largest in (
        ({}, 8 * 8),
        ({"bits": "8-1"}, 255 * 128),
        ({"bits": "8-1.58"}, 128 * 128),
        ({"bits": "4-1.58", "codec": "multihead"}, 9 * 8),
        ({"bits": "8-1.58", "codec": "repetition", "time_steps": 127}, 127 * 128),
    ):
        config = SpikeConfig.parse(settings)
        most = (2**31 - 1) // largest
        assert config.overflow(most) is None
        sentence = config.overflow(most + 1)
        assert sentence and str(most + 1) in sentence and "2^31" in sentence
    for settings in ({"bits": "16-16"}, {"bits": "16-1.58"}, {"bits": "8-16"}):
        assert SpikeConfig.parse(settings).overflow(2**40) is None


WILD: list[Any] = [
    None, True, False, -1, 0, 3, 10**5000, 1e308, float("nan"), float("inf"), "", "none", "x" * 9999, "4-1.58",
    "\0", "²",
    [], [1], [None], {}, {"a": 1}, {1: 2}, {None: None}, {"codec": {}}, [{"pattern": 1}], [[[[[]]]]],
    {"a": {"b": {"c": {}}}},
    b"bytes", (1, 2), {"bits"}, object(),
]  # fmt: skip


def test_whatever_is_written_is_a_setting_or_a_sentence() -> None:
    names = [
        *known_paths(SpikeConfig),
        *SpikeConfig.short_names,
        "inputs",
        "weights",
        "kv",
        "rotation",
        "inputs.clip",
        "?",
    ]
    for name in names:
        for value in WILD:
            override = {"pattern": "q", "settings": {name: value}}
            for settings in ({name: value}, {"overrides": [override]}, {"codec": "multihead", name: value}):
                try:
                    config = SpikeConfig.parse(settings)
                    config.for_linear("model.layers.0.self_attn.q_proj", "q")
                    assert SpikeConfig.parse(config.model_dump(mode="json")) == config
                except SpikeconvError as error:
                    assert "\n" not in str(error) and len(str(error)) < 1500
    for settings in (None, [], 3, "x"):
        with pytest.raises(SpikeconvError):
            parse_settings(SpikeConfig, settings)
