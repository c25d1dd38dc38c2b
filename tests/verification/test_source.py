"""What `verify` sees of the source: every tensor that is not the source's is named, and a right one is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spikeconv.checkpoint.folder import source_path
from spikeconv.checkpoint.format import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint, load_source
from spikeconv.verification.result import VerifyResult
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
Q = "model.layers.0.self_attn.q_proj"
SETTINGS: list[dict[str, Any]] = [
    {},
    {"bits": "4-1", "weight_clip": "none"},
    {"bits": "8-8", "skip": ["q", "model.layers.1.*"]},
    {"rotation": "quarot", "skip": ["v"]},
    {"bits": "16-1.58"},
    {"bits": "2-1.58", "rotation": "none"},
]


def checked(path: Path, **options: Any) -> VerifyResult:
    return verify(load_checkpoint(path), "What was converted is what was there.", tokens=8, **options)


def changed(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace a tensor of a checkpoint, which is copied whole first."""
    tensors = load_file(path / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def test_every_family_is_its_source(family: str, converted: Fixture) -> None:
    for settings in SETTINGS if family == "llama" else SETTINGS[:1]:
        result = checked(converted(family, **settings))
        assert result.clean, (settings, result)
        assert result.source_reader == "transformers" and not result.notes
        assert result.float_tensors >= 3 and (result.rounding_error or 0) <= 0.5 + 1e-3
        assert (result.rounding_error == 0) == (settings.get("bits") == "16-1.58")


def test_every_dtype_is_its_source(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    for index, (family, dtype) in enumerate([("qwen2", torch.bfloat16), ("rwkv", torch.bfloat16)]):
        run_convert(tiny_checkpoint(family), tmp_path / str(index), dtype=dtype)
        result = checked(tmp_path / str(index))
        assert not result.different_tensors and not result.different_weights, (family, result)


@pytest.mark.parametrize(
    ("tensor", "change", "field"),
    [
        (f"{Q}.weight_scale", lambda t: torch.full_like(t, 0.02), "different_weights"),
        (f"{Q}.weight_scale", lambda t: t * 1.3, "different_weights"),
        (f"{Q}.weight", lambda t: t.flip(0), "different_weights"),
        (f"{Q}.bias", lambda t: t + 1e-3, "different_tensors"),
        ("model.norm.weight", lambda t: t * 1.001, "different_tensors"),
        ("model.embed_tokens.weight", lambda t: t.flip(0), "different_tensors"),
    ],
)
def test_another_tensor_is_named(
    tensor: str, change: Callable[[torch.Tensor], torch.Tensor], field: str, converted: Fixture, tmp_path: Path
) -> None:
    path = shutil.copytree(converted("qwen2"), tmp_path / "out")
    changed(path, tensor, change)
    result = checked(path)
    assert not result.clean and result.changed_files == ["model.safetensors"]
    named = getattr(result, field)
    assert named == [tensor if field == "different_tensors" else Q]


def test_row_sums_that_are_not_those_of_the_weights_are_named(converted: Fixture, tmp_path: Path) -> None:
    path = shutil.copytree(converted("llama", bits="4-1"), tmp_path / "out")
    changed(path, f"{Q}.weight_sum", lambda t: t + 1)
    assert checked(path).different_weights == [Q]


def test_the_weights_of_another_file_are_seen(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    """The choice of files is transformers' own: what a reader of ours would choose wrongly shows."""
    source = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source")
    run_convert(source, tmp_path / "out")
    tensors = load_file(source / "model.safetensors")
    save_file({n: t.flip(0) for n, t in tensors.items()}, source / "model.safetensors", metadata={"format": "pt"})
    result = checked(tmp_path / "out")
    assert len(result.different_weights) == result.linears
    assert {"model.norm.weight", "model.embed_tokens.weight"} <= set(result.different_tensors)
    assert not checked(tmp_path / "out", source=False).different_weights


def test_two_versions_of_the_weights_in_one_folder_are_told(
    tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source")
    run_convert(source, tmp_path / "out")
    tensors = load_file(source / "model.safetensors")
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(tensors, shard)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, source / shard, metadata={"format": "pt"})
    assert checked(tmp_path / "out").second_weights == []  # a mere copy
    save_file(
        {**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1}, source / shard, metadata={"format": "pt"}
    )
    result = checked(tmp_path / "out")
    assert result.second_weights == ["model.norm.weight"] and not result.clean and not result.different_weights


def test_a_source_that_is_gone_is_said(
    converted: Fixture, tmp_path: Path, tiny_checkpoint: Fixture, run_convert: Fixture
) -> None:
    source = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "source")
    run_convert(source, tmp_path / "out")
    shutil.rmtree(source)
    result = checked(tmp_path / "out")
    assert result.clean and result.source_reader is None and f"{source}, is not there" in result.notes[0]


def test_the_record_of_somebody_else_is_not_followed(
    tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path, made_here: Path
) -> None:
    """A checkpoint that came from elsewhere names a path of this machine: it is shown, and asked for."""
    source, out = tiny_checkpoint("llama"), tmp_path / "out"
    run_convert(source, out)
    assert checked(out).source_reader == "transformers"
    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps({**record, "command": "another"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spikeconv.verification.source.read_source", lambda path: pytest.fail(f"{path} was read"))
        result = checked(out)
        for command in (lambda: load_source(out), lambda: source_path(out)):
            with pytest.raises(SpikeconvError, match=r"was not converted here.*--source"):
                command()
    assert result.source_reader is None and str(source) in result.notes[0] and "--source" in result.notes[0]
    named = checked(out, source=source)
    assert named.source_reader == "transformers" and named.float_tensors and not named.different_tensors
