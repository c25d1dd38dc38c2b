"""Wheels are unpacked once, whole or not at all; what stands in the way is a sentence."""

import base64
import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spikeconv import wheels
from spikeconv.cache import cache_dir
from spikeconv.errors import SpikeconvError
from spikeconv.wheels import Wheel

DIGEST = base64.urlsafe_b64encode(hashlib.sha256(b"data").digest()).decode().rstrip("=")
LIST = f"package/data.txt,sha256={DIGEST},4\nmade-1.0.dist-info/RECORD,,\n".encode()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel whose download is a copy of a local file."""
    made = tmp_path / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("package/data.txt", "data")
        archive.writestr("made-1.0.dist-info/RECORD", LIST)

    def download(self: Wheel, folder: Path) -> Path:
        return Path(folder, "made.whl").write_bytes(made.read_bytes()) and Path(folder, "made.whl")

    monkeypatch.setattr(Wheel, "_download", download)
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    wheels._is_whole.cache_clear()
    return Wheel("made", "1.0", hashlib.sha256(made.read_bytes()).hexdigest(), hashlib.sha256(LIST).hexdigest())


def test_fetched_once(wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wheel.is_cached()
    assert (wheel.folder() / "package/data.txt").read_text() == "data" and wheel.is_cached()
    monkeypatch.setattr(Wheel, "_download", lambda self, folder: pytest.fail("fetched again"))
    assert wheel.folder() == tmp_path / "cache/made-1.0"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["made-1.0"]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


DAMAGES: tuple[Callable[[Path], object], ...] = (
    lambda folder: (folder / "package/data.txt").write_text("date"),
    lambda folder: (folder / "package/data.txt").unlink(),
    lambda folder: (folder / "made-1.0.dist-info/RECORD").write_text("package/data.txt,,\n"),
    lambda folder: (folder / "made-1.0.dist-info/RECORD").unlink(),
)


def test_what_was_changed_is_fetched_again(wheel: Wheel) -> None:
    """As after a disk error, or where somebody put another file there."""
    for damage in DAMAGES:
        folder = wheel.folder()
        damage(folder)
        wheels._is_whole.cache_clear()  # in another process
        assert not wheel.is_cached()
        assert (wheel.folder() / "package/data.txt").read_text() == "data" and wheel.is_cached()
        assert [path.name for path in folder.parent.iterdir()] == ["made-1.0"]


def test_a_wheel_with_other_files_than_it_lists_is_not_kept(wheel: Wheel) -> None:
    other = Wheel(wheel.name, wheel.version, wheel.sha256, "0" * 64)
    with pytest.raises(SpikeconvError, match="other files than its list says"):
        other.folder()
    assert not other.is_cached() and not list(cache_dir().iterdir())


def test_a_killed_fetch_leaves_nothing_for_long(wheel: Wheel) -> None:
    cache_dir().mkdir()
    old, new = (cache_dir() / f".fetch-{name}" for name in ("old", "new"))
    for folder in (old, new):
        (folder / "half").mkdir(parents=True)
    os.utime(old, (0, 0))
    wheel.folder()
    assert not old.exists() and new.exists()  # that one may still be at work


def test_a_cache_that_cannot_be_written(wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/deeper"):
        monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / place))
        with pytest.raises(SpikeconvError, match=r"made 1\.0 cannot be unpacked into .*file.*SPIKECONV_CACHE names"):
            wheel.folder()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_download_that_is_no_archive(wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").write_bytes(b"no archive")
    monkeypatch.setattr(Wheel, "_download", lambda self, folder: tmp_path / "broken")
    with pytest.raises(SpikeconvError, match="cannot be unpacked into"):
        wheel.folder()
    assert not wheel.is_cached() and list((tmp_path / "cache").iterdir()) == []


def test_a_download_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    wheel = Wheel("made", "1.0", "0" * 64, "0" * 64)

    class Done:
        returncode, stderr = 0, ""

    def run(command: list[str], **_: object) -> type[Done]:
        Path(command[command.index("--dest") + 1], "made-1.0.whl").write_bytes(b"other")
        return Done

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(SpikeconvError, match=r"made-1\.0\.whl has SHA-256 .*, expected 0+; nothing was unpacked"):
        wheel.folder()
