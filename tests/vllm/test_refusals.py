"""What cannot be run is told by name, most of it before vLLM starts a process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spikeconv import SpikeconvError
from spikeconv.serving import versions
from spikeconv.serving.refusal import RefusedConfig

Tiny = Callable[..., Path]
Configure = Callable[..., Any]


def test_settings_and_models_are_refused_by_name(tiny: Tiny, configure: Configure) -> None:
    for settings, said in (
        ({"kv": {"bits": 4}}, "kv_bits=4"),
        ({"inputs": {"codec": "lif"}}, "codec=lif"),
        ({"overrides": {"v": {"bits": "6-1.58"}}}, "v_proj converted to 6-1.58"),
        ({"skip": ["up"]}, "up_proj not converted"),
    ):
        with pytest.raises(SpikeconvError, match=said):
            configure(tiny(**settings))


def test_another_vllm_is_told_the_range(tiny: Tiny, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda _: "0.31.0")
    with pytest.raises(SpikeconvError, match=r"vLLM 0\.31\.0 .* (vllm>=0\.32,<0\.33|vllm<0\.33,>=0\.32)"):
        configure(tiny())
    with pytest.raises(SpikeconvError, match=r"vLLM 0\.31\.0"):  # what it registers in the place of the plug-in
        RefusedConfig.from_config({})


def test_a_damaged_checkpoint_is_told_its_tensor(tiny: Tiny, configure: Configure, tmp_path: Path) -> None:
    good, q = tiny(), "model.layers.1.self_attn.q_proj"
    for change, said in (
        (lambda tensors: tensors.pop(f"{q}.weight_scale"), f"lacks {q}.weight_scale"),
        (lambda tensors: tensors.pop("model.norm.weight"), "lacks model.norm.weight"),
        (lambda tensors: tensors.update({f"{q}.bias": torch.zeros(128)}), f"{q}.bias"),
        (lambda tensors: tensors.update({f"{q}.weight": tensors[f"{q}.weight"].repeat(2, 1, 1)}), f"{q}.weight is U8"),
    ):
        bad = tmp_path / said.replace("/", "")
        shutil.copytree(good, bad)
        tensors = load_file(bad / "model.safetensors")
        change(tensors)
        save_file(tensors, bad / "model.safetensors", {"format": "pt"})
        with pytest.raises(SpikeconvError, match=said.replace(".", r"\.")):
            configure(bad)
    shutil.copytree(good, tmp_path / "more")
    shutil.copy(good / "model.safetensors", tmp_path / "more/other.safetensors")
    with pytest.raises(SpikeconvError, match=r"other\.safetensors is no part"):
        configure(tmp_path / "more")


def test_wrong_numbers_and_wrong_options_stop_the_loading(
    tiny: Tiny, tmp_path: Path, load: Callable[..., nn.Module]
) -> None:
    good, bad, up = tiny(), tmp_path / "bad", "model.layers.0.mlp.up_proj.weight_scale"
    shutil.copytree(good, bad)
    tensors = load_file(bad / "model.safetensors")
    tensors[up][3] = float("nan")
    save_file(tensors, bad / "model.safetensors", {"format": "pt"})
    with pytest.raises(SpikeconvError, match=r"layers\.0\.mlp\.gate_up_proj: .* not finite"):
        load(bad)
    for options, said in (({"enable_lora": True}, "--enable-lora"), ({"cpu_offload_gb": 1}, "--cpu-offload-gb")):
        with pytest.raises(SpikeconvError, match=said):
            load(good, **options)


def test_compiled_graphs_are_of_one_conversion(tiny: Tiny, configure: Configure, tmp_path: Path) -> None:
    """vLLM keeps them on disk by a hash, in which the settings must be: a rotation is part of a graph."""
    path = tmp_path / "model"
    shutil.copytree(tiny(), path)
    before = configure(path).compute_hash()
    assert before == configure(path).compute_hash()
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["rotation"]["seed"] += 1
    (path / "config.json").write_text(json.dumps(config))
    assert configure(path).compute_hash() != before
