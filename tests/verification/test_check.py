"""Every damaged byte is found, and made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource
from spikeconv.verification.check import check_files
from spikeconv.verification.repair import repair

Fixture = Callable[..., Any]


@pytest.fixture(params=[1 << 30, 9000])
def checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> tuple[Path, HfSource]:
    """In one file and in several, with its source."""
    run_convert(tiny_checkpoint("qwen2"), tmp_path / "out", writing=Writing(request.param))
    return tmp_path / "out", HfSource(tiny_checkpoint("qwen2"))


def place(path: Path, name: str) -> tuple[Path, int, int]:
    """The file of a tensor, its first byte there and its size."""
    for file in path.glob("model*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        if (entry := json.loads(data[8 : 8 + length]).get(name)) is not None:
            begin, end = entry["data_offsets"]
            return file, 8 + length + begin, end - begin
    raise AssertionError(name)


def test_every_tensor(checkpoint: tuple[Path, HfSource]) -> None:
    path, source = checkpoint
    result = check_files(path)
    names = list(json.loads((path / "spikeconv.json").read_text())["tensors"])
    assert result.clean and result.tensors == len(names)
    before = {file.name: file.read_bytes() for file in path.glob("*.safetensors")}
    for number, name in enumerate(names):
        file, begin, size = place(path, name)
        data = bytearray(before[file.name])
        data[begin + number % size] ^= 1 << number % 8
        file.write_bytes(data)
        result = check_files(path)
        assert [(damage.file, damage.tensor) for damage in result.damages] == [(file.name, name)]
        assert repair(path, source, result) == [file.name] and check_files(path).clean
        assert file.read_bytes() == before[file.name]


def test_other_damages(checkpoint: tuple[Path, HfSource], tmp_path: Path) -> None:
    path, source = checkpoint
    file = sorted(path.glob("*.safetensors"))[0]
    whole = file.read_bytes()
    for data, what in (
        (None, "is missing"),
        (b"", "header that cannot be read"),
        (whole[:7], "header that cannot be read"),
        (b"\xff" * 8 + whole[8:], "header that cannot be read"),
        (whole.replace(b"data_offsets", b"data_0ffsets", 1), "header that cannot be read"),
        (whole[:-1], "header that cannot be read|other bytes"),
        (whole + b"more", "another header or more bytes"),
        (whole.replace(b'"format":"pt"', b'"format":"tf"', 1), "another header or more bytes"),
    ):
        file.unlink()
        if data is not None:
            file.write_bytes(data)
        result = check_files(path)
        assert len(result.damages) == 1
        assert result.damages[0].file == file.name and any(part in result.damages[0].what for part in what.split("|"))
        repair(path, source, result)
        assert file.read_bytes() == whole
    assert not [name for name in path.iterdir() if name.name.startswith(".")]


def test_settings_and_what_cannot_be_repaired(checkpoint: tuple[Path, HfSource], tiny_checkpoint: Fixture) -> None:
    path, source = checkpoint
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["zero_share"] = {"q": 0.5}  # noted by `report-firing-rate --save`
    (path / "config.json").write_text(json.dumps(config))
    assert check_files(path).clean
    config["quantization_config"]["inputs"]["clip_ratio"] = 0.7
    (path / "config.json").write_text(json.dumps(config))
    result = check_files(path)
    assert [damage.what for damage in result.damages] == ["has another quantization_config: inputs"]
    with pytest.raises(SpikeconvError, match=r"config.json cannot be repaired"):
        repair(path, source, result)
    shutil.copyfile(tiny_checkpoint("qwen2") / "config.json", path / "config.json")
    assert not check_files(path).clean


def test_another_source_and_calibrated_weights(
    checkpoint: tuple[Path, HfSource], tiny_checkpoint: Fixture, converted: Fixture, tmp_path: Path
) -> None:
    path, _ = checkpoint
    file = sorted(path.glob("*.safetensors"))[0]
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    with pytest.raises(SpikeconvError, match=r"not what .* was converted from"):
        repair(path, HfSource(tiny_checkpoint("llama")), check_files(path))
    assert file.read_bytes() == damaged
    old = json.loads((path / "spikeconv.json").read_text())
    del old["tensors"]
    (path / "spikeconv.json").write_text(json.dumps(old))
    with pytest.raises(SpikeconvError, match="no hashes of tensors"):
        check_files(path)


def test_dtypes(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        path = tmp_path / str(dtype)
        run_convert(tiny_checkpoint("qwen2"), path, dtype=dtype)
        whole = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").unlink()
        repair(path, HfSource(tiny_checkpoint("qwen2")), check_files(path))
        assert (path / "model.safetensors").read_bytes() == whole
        with safe_open(path / "model.safetensors", "pt") as file:
            assert file.get_tensor("model.norm.weight").dtype == dtype
