"""A model in memory converts to the same model as its checkpoint does, and stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import spikeconv
from spikeconv.config import SpikeConfig
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.nn import spike_linears
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.sources.model import ModelSource

Fixture = Callable[..., Any]


def convert_model(model: Any, **settings: Any) -> Any:
    source = ModelSource(model)
    return convert_in_memory(source, make_plan(source, SpikeConfig.parse(settings)))


def test_equals_the_converted_checkpoint(
    family: str, tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(family)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = convert_model(model)
    assert torch.equal(logits_of(found), logits_of(converted(family)))
    assert found.training is False and model.training is True
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert not getattr(model.config, "quantization_config", None) and not spike_linears(model)
    ours, theirs = ({tensor.data_ptr() for tensor in each.state_dict().values()} for each in (found, model))
    assert not ours & theirs


def test_what_the_user_changed_is_what_is_converted(tiny_checkpoint: Fixture, logits_of: Fixture) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("qwen2"), dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2)
    model.generation_config.max_new_tokens = 7
    found = convert_model(model, bits="8-8", skip=["q"])
    assert found.dtype == torch.bfloat16 and found.generation_config.max_new_tokens == 7
    assert not torch.equal(logits_of(found), logits_of(model))
    error = (logits_of(found) - logits_of(model)).norm() / logits_of(model).norm()
    assert error < 0.1, error
    assert set(spike_linears(found)) == {
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in (
            *(f"self_attn.{part}_proj" for part in "kvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }


def test_saves_and_loads_like_a_converted_checkpoint(
    tiny_checkpoint: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    found = convert_model(model, kv_bits=4)
    found.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(tmp_path / "saved"), logits_of(found))


def test_writes_the_checkpoint_that_its_directory_gives(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    path = tiny_checkpoint("mistral")
    model = AutoModelForCausalLM.from_pretrained(path)
    done = [
        convert(source, make_plan(source, SpikeConfig()), tmp_path / name).layers
        for source, name in ((ModelSource(model), "memory"), (HfSource(path), "disk"))
    ]
    memory, disk = (tmp_path / name / "model.safetensors" for name in ("memory", "disk"))
    assert memory.read_bytes() == disk.read_bytes()
    assert [result.layer for result in done[0]] == [0, 1] and done[0] == done[1]


def test_what_cannot_be_converted(tiny_checkpoint: Fixture, converted: Fixture) -> None:
    with pytest.raises(SpikeconvError, match="LlamaForCausalLM in memory is already converted"):
        convert_model(AutoModelForCausalLM.from_pretrained(converted("llama")))
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    with pytest.raises(SpikeconvError, match="LlamaModel is not supported"):
        convert_model(model.model)
    with pytest.raises(SpikeconvError, match=r"embed_tokens\.weight is offloaded"):
        ModelSource(model.to("meta"))
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint("llama"))
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(SpikeconvError, match=r"model\.norm\.weight contains NaN"):
        convert_model(model)
    with pytest.raises(SpikeconvError, match="has no tokenizer"):
        ModelSource(model).tokenizer()


def test_a_balanced_model_is_the_balanced_checkpoint(
    tiny_checkpoint: Fixture, logits_of: Fixture, tmp_path: Path
) -> None:
    """In bfloat16, with a clipping calibrated on the balanced model, through the functions that Python users call."""
    text = tmp_path / "text.txt"
    text.write_text(sample_text(), encoding="utf-8")
    settings: dict[str, Any] = {"balance": "sqrt", "calibration": text, "calibration_tokens": 128, "dtype": "bfloat16"}
    settings |= {"clip_quantile": 0.3, "clip_text": text, "clip_tokens": 256}
    for family in ("qwen3", "rwkv6"):
        chosen = {key: value for key, value in settings.items() if family == "qwen3" or "clip" not in key}
        path = tiny_checkpoint(family)
        model, tokenizer = load_float(path).model, load_float(path).tokenizer
        found = spikeconv.convert(model, tokenizer=tokenizer, **chosen)
        spikeconv.convert(path, tmp_path / family, **chosen)
        assert torch.equal(logits_of(found), logits_of(spikeconv.load(tmp_path / family)))
    with pytest.raises(SpikeconvError, match="no tokenizer"):
        spikeconv.convert(model, balance="sqrt", calibration=text)
