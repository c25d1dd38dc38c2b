"""Models whose tensors accelerate keeps elsewhere give the same logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from tiny_models import FAMILIES, TRANSFORMERS
from torch import Tensor
from transformers import AutoModelForCausalLM

import spikeconv
from spikeconv.errors import SpikeconvError
from spikeconv.integrations.engine import modules_only
from spikeconv.integrations.fallbacks import fallbacks
from spikeconv.nn import spike_linears

Fixture = Callable[..., Any]
CPU = torch.device("cpu")


def load(path: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


def layers_on_disk(model: Any) -> dict[str, str]:
    """The first layer in memory, the second on disk."""
    layers = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList))
    parts = [name for name, _ in model.base_model.named_children() if not layers.endswith(name)]
    heads = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    cpu = [f"{model.base_model_prefix}.{name}" for name in parts] + heads
    return {**dict.fromkeys(cpu, "cpu"), f"{layers}.0": "cpu", f"{layers}.1": "disk"}


def logits(model: Any, tokens: Tensor) -> Tensor:
    """By the modules: what lies elsewhere is nothing for the engine."""
    with torch.no_grad(), modules_only(model):
        found: Tensor = model(tokens).logits
    return found


def decoded(model: Any, tokens: Tensor) -> Tensor:
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with modules_only(model):
        found: Tensor = model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    return found


@pytest.fixture(params=[name for name in FAMILIES if name != "rwkv7"])
def family(request: pytest.FixtureRequest) -> str:
    """rwkv7-hf reads tensors of modules that it does not call: its float models cannot be offloaded either."""
    return str(request.param)


@pytest.mark.parametrize("buffers", [False, True])
def test_a_layer_on_disk(family: str, buffers: bool, converted: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    """With the packed weights, which are buffers, in memory or not."""
    path = converted(family, **({} if family not in TRANSFORMERS else {"kv_bits": 4, "bits": "4-1"}))
    whole = load(path)
    device_map = layers_on_disk(whole)
    model = load(path, device_map=device_map, offload_folder=tmp_path, offload_buffers=buffers)
    away = [linear.weight.is_meta for linear in spike_linears(model).values()]
    assert any(away) == buffers
    for _ in range(2):
        assert torch.equal(logits(model, tokens), logits(whole, tokens))
    assert torch.equal(decoded(model, tokens), decoded(whole, tokens))
    assert [linear.weight.is_meta for linear in spike_linears(model).values()] == away


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_after_loading(family: str, where: str, converted: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    path = converted(family)
    whole, model = load(path), load(path)
    before = logits(model, tokens), decoded(model, tokens)  # plans are made
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=CPU)
    else:
        accelerate.disk_offload(model, tmp_path, execution_device=CPU)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model, tokens), before[0]) and torch.equal(logits(whole, tokens), before[0])
    assert torch.equal(decoded(model, tokens), before[1])


def test_what_nothing_brings_back_is_a_sentence(converted: Fixture, tokens: Tensor) -> None:
    model = load(converted("llama"))
    accelerate.cpu_offload(model, execution_device=CPU)
    norm = model.model.layers[0].input_layernorm
    norm.forward = norm._old_forward
    del norm._hf_hook
    with pytest.raises(SpikeconvError, match="weights of a FoldedNorm are on the meta device"):
        model(tokens)


def test_the_long_way_is_told(converted: Fixture, tmp_path: Path) -> None:
    path = converted("llama")
    model = load(path, device_map=layers_on_disk(load(path)), offload_folder=tmp_path)
    assert [text for text in fallbacks(model) if "forwards of its modules were replaced" in text] == fallbacks(model)


def test_spikes_are_counted_once(converted: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    """A group that is away is encoded for each member anew, but what it sees is seen once."""
    path = converted("llama")
    whole = load(path)
    model = load(path, device_map=layers_on_disk(whole), offload_folder=tmp_path)
    recorded = []
    for each in (model, whole):
        with spikeconv.record_spikes(each, trains=["*.k_proj"]) as spikes, torch.no_grad():
            each(tokens)
            each(tokens[:, :2])
        recorded.append(spikes)
    for name, layer in recorded[1].items():
        assert recorded[0][name] == layer, name
    name = "model.layers.1.self_attn.k_proj"
    assert recorded[0].counts(name, 1).shape == recorded[1].counts(name, 1).shape
    with pytest.raises(SpikeconvError, match="verify its checkpoint"):
        spikeconv.verify(model)


def test_thresholds_are_brought_back(tiny_checkpoint: Fixture, tokens: Tensor, tmp_path: Path) -> None:
    spikeconv.convert(tiny_checkpoint("llama"), tmp_path / "model", clip_quantile=0.5, clip_tokens=64)
    whole = load(tmp_path / "model")
    options = {"offload_folder": tmp_path / "away", "offload_buffers": True}
    model = load(tmp_path / "model", device_map=layers_on_disk(whole), **options)
    assert model.model.layers[1].self_attn.q_proj.input_threshold.is_meta
    assert torch.equal(logits(model, tokens), logits(whole, tokens))
