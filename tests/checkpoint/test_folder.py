"""Which checkpoint is meant, and what is known without its record."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spikeconv import cache
from spikeconv.checkpoint.folder import read_record, remember, resolve_checkpoint, save_zero_shares
from spikeconv.checkpoint.format import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.versions import versions


def test_the_last_checkpoint(converted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SpikeconvError, match="Nothing has been converted"):
        resolve_checkpoint(None)
    odd = tmp_path / os.fsdecode(b"caf\xe9 [v2]\n")  # no text in any encoding, no line
    shutil.copytree(converted(), odd)
    remember(odd)
    assert resolve_checkpoint(None) == odd
    monkeypatch.setenv("SPIKECONV_CACHE", "/dev/null/cache")
    with pytest.raises(OSError, match="Not a directory"):
        remember(odd)


def test_a_checkpoint_without_its_record(converted: Callable[..., Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(converted(), again)
    (again / RECORD).unlink()
    assert resolve_checkpoint(again) == again
    with pytest.raises(SpikeconvError, match="without its record"):
        read_record(again)
    for text in ("{}", '{"quantization_config": null}', '{"quantization_config": {"quant_method": "gptq"}}', "[]", "{"):
        (again / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(SpikeconvError):
            resolve_checkpoint(again)


def test_shares_that_cannot_be_noted(converted: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(converted(), folder)
    before = (folder / "config.json").read_bytes()
    (folder / f".config.json.incomplete-{os.getpid()}").mkdir()  # in the way of the file to be renamed
    with pytest.raises(OSError):
        save_zero_shares(folder, {})
    assert (folder / "config.json").read_bytes() == before


def test_the_cache_of_somebody_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPIKECONV_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_dir() == tmp_path / "home/.cache/spikeconv"

    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    shared = tmp_path / f"spikeconv-{os.getuid()}"
    found = []
    for prepare in (lambda: None, lambda: None, lambda: shared.chmod(0o770), lambda: shared.rename(tmp_path / "other")):
        prepare()
        if not shared.exists() and (tmp_path / "other").exists():
            shared.symlink_to(tmp_path / "other")
        cache._temporary.cache_clear()
        found.append(cache.cache_dir())
        assert found[-1].is_dir() and found[-1].stat().st_mode & 0o077 == 0
    assert found[:2] == [shared, shared]  # again in the next run
    assert shared not in found[2:]  # others could write it, or it leads elsewhere
    cache._temporary.cache_clear()


def test_versions_of_what_is_not_installed() -> None:
    assert versions(["no-such-package"])["no-such-package"] == "not installed"


def test_a_damaged_record_is_a_sentence(tmp_path: Path) -> None:
    good = {"source": {"path": None}, "config": {}, "files": {}}
    (tmp_path / RECORD).write_text(json.dumps(good))
    assert read_record(tmp_path) == good
    for key, value in (("source", None), ("source", {}), ("config", 3), ("files", [])):
        (tmp_path / RECORD).write_text(json.dumps({**good, key: value}))
        with pytest.raises(SpikeconvError, match=f"is damaged: its '{key}'"):
            read_record(tmp_path)
