"""What `quantization_config` holds, and what of it is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from spikeconv.checkpoint.format import FORMAT, quantization_config, read_settings
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError


def test_settings_are_read_as_they_were_written() -> None:
    override = {"pattern": "down", "settings": {"bits": "6-1.58"}}
    for settings in ({}, {"bits": "4-1", "kv_bits": 4, "skip": ["o"], "overrides": [override]}, {"codec": "multihead"}):
        config = SpikeConfig.parse(settings)
        written = json.loads(json.dumps(quantization_config(config)))
        assert read_settings(written) == config
        assert read_settings({**written, "zero_share": {"model.layers.0.mlp.down_proj": 0.9}}) == config


def test_other_formats_are_refused() -> None:
    written = quantization_config(SpikeConfig())
    for found, words in (
        (1, "convert its source again"),
        (0, "convert its source again"),
        (FORMAT + 1, "upgrade"),
        (None, "convert its source again"),
        (str(FORMAT), "convert its source again"),
        (float(FORMAT), "convert its source again"),
        (True, "convert its source again"),
        ([FORMAT], "convert its source again"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            read_settings({**written, "format": found})
    with pytest.raises(SpikeconvError, match="format None"):
        read_settings({key: value for key, value in written.items() if key != "format"})


def test_unknown_settings_do_not_load(converted: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(converted("llama"), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    settings = config["quantization_config"]
    for changed, words in (
        ({**settings, "weight_bits": 4}, "weight_bits.*Did you mean weights.bits"),
        ({**settings, "inputs": {**settings["inputs"], "elastic": 1}}, "inputs.elastic"),
        ({**settings, "inputs": {**settings["inputs"], "clip_ratio": 2}}, "inputs.clip_ratio"),
        ({**settings, "format": 1}, "format 1.*convert its source again"),
        ({key: value for key, value in settings.items() if key != "format"}, "format None"),
        ({key: value for key, value in settings.items() if key != "rotation"}, "lacks rotation"),
        ({**settings, "rotation": {"kind": "quarot"}}, "lacks rotation.seed"),
    ):
        path.write_text(json.dumps({**config, "quantization_config": changed}), encoding="utf-8")
        with pytest.raises(SpikeconvError, match=words):
            AutoModelForCausalLM.from_pretrained(tmp_path / "model")
