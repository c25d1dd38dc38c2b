"""A balanced checkpoint holds its source, balanced; a factor that is not the one used is seen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spikeconv.calibrate.windows import Calibration
from spikeconv.checkpoint.balance import BALANCE
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.data.sample import sample_text
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.nn import spike_linears
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.verification.result import VerifyResult
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]


@pytest.fixture(scope="module")
def balanced(tiny_checkpoint: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(sample_text(), encoding="utf-8")
    calibration = Calibration(calibration=str(text), calibration_tokens=128)

    def make(family: str, dtype: torch.dtype | None = None, **settings: Any) -> Path:
        source = HfSource(tiny_checkpoint(family))
        config = SpikeConfig.parse({"balance": "sqrt", **settings})
        plan = plan_conversion(source, config, calibration=calibration, dtype=dtype)
        output = tmp_path_factory.mktemp(family) / "model"
        convert(source, plan, output, dtype=dtype)
        return output

    return make


def checked(path: Path) -> VerifyResult:
    return verify(load_checkpoint(path), "What was converted is what was there.", tokens=8)


def test_a_balanced_checkpoint_is_its_source(balanced: Fixture, transformer: str) -> None:
    """Integer and float weights, rotated or not, in the source's dtype or another, linears left out or not."""
    several: list[dict[str, Any]] = [
        {"bits": "16-1.58", "rotation": "none"},
        {"bits": "8-8", "skip": ["v", "up"], "dtype": torch.bfloat16},
    ]
    floats = {"bits": "4-16", "overrides": [{"pattern": "o", "settings": {"balance": "none"}}]}
    for settings in [{}, *(several if transformer == "qwen2" else [floats] if transformer == "llama" else [])]:
        result = checked(balanced(transformer, **settings))
        assert result.clean and not result.notes, (settings, result)
        assert 0 < result.rotation_error <= 1e-4


def test_a_factor_that_is_not_the_one_used_is_seen(balanced: Fixture, tmp_path: Path) -> None:
    path = balanced("llama")
    record = json.loads((path / "spikeconv.json").read_text())
    assert record["files"].keys() == {BALANCE} and record["headers"].keys() == {"model.safetensors"}
    assert record["config"]["balance"] == "sqrt" and record["calibration"]["tokens"] == 128
    factors = load_file(path / BALANCE)

    def change(name: str, group: str, factor: float) -> VerifyResult:
        changed = shutil.copytree(path, tmp_path / name)
        save_file({**factors, group: factors[group] * factor}, changed / BALANCE, metadata={"dtype": "auto"})
        return checked(changed)

    norm, layer = change("norm", "model.layers.0.gate_up", 1.5), "model.layers.0"
    assert not norm.clean and norm.changed_files == [BALANCE]
    assert norm.different_tensors == [f"{layer}.post_attention_layernorm.weight"]
    assert set(norm.different_weights) == {f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"}
    rows = change("rows", "model.layers.0.down", 0.7)
    assert set(rows.different_weights) == {f"{layer}.mlp.up_proj", f"{layer}.mlp.down_proj"}
    with pytest.raises(SpikeconvError, match=r"factors of model\.layers\.0\.o do not fit"):
        change("sign", "model.layers.0.o", -1.0)
    gone = shutil.copytree(path, tmp_path / "gone")
    (gone / BALANCE).unlink()
    result = checked(gone)
    assert not result.clean and result.changed_files == [BALANCE] and BALANCE in result.notes[0]


def test_where_nothing_takes_the_factors_in_the_encoder_multiplies(
    balanced: Fixture, recurrent: str, logits_of: Fixture, tiny_checkpoint: Fixture
) -> None:
    """RWKV: a tensor of each linear; with float weights and inputs the function is the source's."""
    path = balanced(recurrent, bits="16-16")
    expected, found = logits_of(load_float(tiny_checkpoint(recurrent)).model), logits_of(load_checkpoint(path).model)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    path = balanced(recurrent)
    result = checked(path)
    assert result.clean, result
    model, factors = load_checkpoint(path).model, load_file(path / BALANCE)
    linears = spike_linears(model)
    assert len(linears) == len(factors)
    for linear in linears.values():
        assert linear.input_balance is not None and linear.encoder.held_by["input_balance"] is linear
        assert linear.to(torch.bfloat16).input_balance.dtype == torch.float32
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("input_balance"))
    save_file({**tensors, name: tensors[name] * 1.01}, path / "model.safetensors", metadata={"format": "pt"})
    assert checked(path).different_weights == [name.removesuffix(".input_balance")]
    del tensors[name]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpikeconvError, match="input_balance"):
        load_checkpoint(path)
