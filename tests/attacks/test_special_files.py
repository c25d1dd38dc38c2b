"""Attack: pipes and devices in the place of files: reading them never ends, or fills the memory or the disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.sources.json_file import read_json
from spikeconv.sources.resolve import open_source
from spikeconv.untrusted import read_bounded


def test_pipes(source_copy: Callable[[], Path]) -> None:
    for name in ("config.json", "tokenizer.json", "generation_config.json", "notes.txt", "model.safetensors"):
        source = source_copy()
        (source / name).unlink(missing_ok=True)
        os.mkfifo(source / name)
        with pytest.raises(SpikeconvError, match=r"is a pipe|holds no weights"):
            open_source(source)


def test_devices(source_copy: Callable[[], Path]) -> None:
    source = source_copy()
    (source / "config.json").unlink()
    (source / "config.json").symlink_to("/dev/zero")
    with pytest.raises(SpikeconvError, match=r"config.json is a device"):
        open_source(source)
    with pytest.raises(SpikeconvError, match="is a folder"):
        read_bounded(source, 10)


def test_files_that_are_too_large(tmp_path: Path) -> None:
    """A sparse file of a terabyte costs its author nothing."""
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SpikeconvError, match="1,099,511,627,776 bytes, more than"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"{" + b" " * 98 + b"}")
    assert read_json(tmp_path / "b.json", most=100) == {}
    with pytest.raises(SpikeconvError, match="more than the 99"):
        read_json(tmp_path / "b.json", most=99)
