"""A config.json that cannot be is a sentence that names it, and never a model that takes for ever to build."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.sources.float_model import load_float
from spikeconv.sources.resolve import open_source

Fixture = Callable[..., Any]
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "head_dim")
WRONG: list[tuple[str, Any, str]] = [
    *((name, value, f"config.json has {name} {value}") for name in SIZES for value in (0, -1)),
    *((name, value, name) for name in SIZES for value in ("2", 1.5, True, [2], {})),
    *((name, 10**9, "") for name in SIZES),
    *((name, 10**30, "") for name in SIZES),
    ("num_hidden_layers", 10**9, "asks for 1000000000 layers (num_hidden_layers), but there are 20 tensors"),
    ("num_hidden_layers", 3, "model.layers.2"),
    ("pad_token_id", 258, "pad_token_id 258, outside the vocabulary of 258"),
    ("pad_token_id", -259, "pad_token_id -259, outside"),
    ("rms_norm_eps", float("nan"), "rms_norm_eps nan"),
    ("rope_parameters", {"rope_type": "nope", "rope_theta": 1e4}, "KeyError: 'nope'"),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 0}, "rope_theta 0"),
    ("hidden_act", "nope", "KeyError: 'nope'"),
    ("dtype", "nope", "'nope'"),
    ("dtype", "int8", "int8"),
    ("architectures", 3, "Architecture 3 is not supported"),
    ("architectures", {"a": 1}, "is not supported"),
    ("model_type", ["llama"], "is not supported"),
    ("quantization_config", [1], "quantization_config that is no object"),
    ("quantization_config", {"bits": 4}, "quantized with something unnamed"),
    ("auto_map", {"AutoModelForCausalLM": 3}, "LlamaForCausalLM"),
    ("layer_types", ["nope"], "layer_types"),
    ("id2label", 3, "AttributeError"),
]
HARMLESS: list[tuple[str, Any]] = [("pad_token_id", -1), ("auto_map", []), ("architectures", None), ("dtype", None)]


def test_impossible_values(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    start = time.perf_counter()
    for name, value, words in WRONG:
        (source / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(SpikeconvError) as caught:
            make_plan(open_source(source), SpikeConfig())
        assert words in str(caught.value) and "\n" not in str(caught.value), (name, value, caught.value)
        assert "config.json" in str(caught.value) or "is not supported" in str(caught.value) or "quantized" in words
    assert time.perf_counter() - start < 60


def test_odd_values_that_transformers_accepts(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    for name, value in HARMLESS:
        (source / "config.json").write_text(json.dumps({**config, name: value}))
        assert len(make_plan(open_source(source), SpikeConfig()).jobs) == 14, name


def test_a_float_model_is_checked_in_the_same_way(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    with pytest.raises(SpikeconvError, match="asks for 1000000000 layers"):
        load_float(source)
