"""A library planted in a cache folder that others can write: loading it would run their code."""

import os
from itertools import product
from pathlib import Path

import pytest

from spikeconv import cache
from spikeconv.ops import native

STRANGER = 54321


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library as if built here before."""
    monkeypatch.setenv("SPIKECONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_installed", lambda device: tmp_path / "nowhere")
    place = native._cached("cpu")
    cache.make_private(place.parent)
    place.write_bytes(b"code")
    native.note_hash(place)
    assert native._find("cpu") == place
    return place


def test_one_that_was_put_there_without_its_hash(library: Path) -> None:
    library.with_suffix(".sha256").unlink()
    assert native._find("cpu") is None


def test_one_that_was_changed(library: Path) -> None:
    library.write_bytes(b"their code")
    assert native._find("cpu") is None


def test_one_where_others_can_write(library: Path) -> None:
    """The file, its folder, or any above it in the cache."""
    for place, mode in product((library, *library.parents[:3]), (0o777, 0o770, 0o702)):
        before = place.stat().st_mode
        place.chmod(mode)
        assert native._find("cpu") is None
        assert f"mode {mode:03o}" in str(cache.who_else(library))
        # Built anew elsewhere: in a folder of this user alone.
        if place == cache.cache_dir():
            assert cache.writable_dir() != place and cache.writable_dir().stat().st_mode & 0o077 == 0
        place.chmod(before)
        assert native._find("cpu") == library


def test_one_of_another_user(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() == 0:
        os.chown(library, STRANGER, STRANGER)
    else:
        monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    assert native._find("cpu") is None
    assert "belongs to another user" in str(cache.who_else(library))


def test_one_that_a_link_leads_to(library: Path, tmp_path: Path) -> None:
    """A link of our own to what others can write."""
    theirs = tmp_path / "theirs.so"
    library.rename(theirs)
    library.symlink_to(theirs)
    assert native._find("cpu") == library  # ours too
    theirs.chmod(0o666)
    assert native._find("cpu") is None


def test_the_cache_is_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache.make_private(tmp_path / "a/b/c")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
