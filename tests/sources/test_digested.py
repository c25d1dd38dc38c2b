"""What a conversion read is noted, and stays the same."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file

from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import digest_within
from spikeconv.sources.digested import ChangedSourceError, DigestedSource
from spikeconv.sources.hf import HfSource

Fixture = Callable[..., Any]


def test_bytes_of_the_file_however_they_are_read(tiny_checkpoint: Fixture) -> None:
    path = tiny_checkpoint("qwen2")
    tensors = load_file(path / "model.safetensors")
    wanted = {n: blake3(t.view(torch.uint8).numpy().tobytes()).hexdigest() for n, t in tensors.items()}
    for rows in (None, 1, 3, 1000):
        source = DigestedSource(HfSource(path))
        for name in source.names():
            for _ in [source.load(name)] if rows is None else source.blocks(name, rows):
                pass
            assert source.just_read() == {name: wanted[name]} and not source.just_read()
        assert source.digests() == wanted and list(source.digests()) == source.names()
    source = DigestedSource(HfSource(path))
    next(iter(source.blocks(source.names()[0], 1)))
    assert not source.digests()  # not all of it
    source = DigestedSource(HfSource(path))
    name = source.names()[0]
    source.expect({name: "0" * 64})
    with pytest.raises(ChangedSourceError, match=rf"{name} is not what it was"):
        source.load(name)
    with pytest.raises(ChangedSourceError):
        list(source.blocks(name, 2))


def test_a_source_that_changes_while_it_is_converted(
    tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QuaRot reads a norm for every weight that it is folded into: another one for the second."""
    (tmp_path / "source").mkdir()
    for file in tiny_checkpoint("qwen2").iterdir():
        (tmp_path / "source" / file.name).write_bytes(file.read_bytes())
    load = HfSource.load
    norm, read = "model.layers.0.input_layernorm.weight", []

    def changing(self: HfSource, name: str) -> torch.Tensor:
        loaded = load(self, name)
        read.append(name)
        return loaded + 1 if read.count(norm) == 2 and name == norm else loaded

    monkeypatch.setattr(HfSource, "load", changing)
    with pytest.raises(SpikeconvError, match=f"{norm} is not what it was"):
        run_convert(tmp_path / "source", tmp_path / "out", rotation="quarot", writing=Writing())
    assert not (tmp_path / "out").exists()


def test_parts_of_files(tmp_path: Path) -> None:
    data = torch.randint(0, 256, (3 << 20,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "file").write_bytes(data.numpy().tobytes())
    file = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        for begin, end in ((0, 3 << 20), (0, 0), (5, 5), (1, 1 << 20), (12345, 2_500_001), (10, 1 << 30)):
            wanted = blake3(data[begin:end].numpy().tobytes()).hexdigest()
            assert digest_within(file, begin, end) == wanted
    finally:
        os.close(file)
