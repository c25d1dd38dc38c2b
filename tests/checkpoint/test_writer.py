"""The output appears whole or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import fail_at_read

from spikeconv.checkpoint.format import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.plain import write_json

Fixture = Callable[..., Any]


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(params=[RuntimeError, SpikeconvError])
def interrupted(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, converted: Fixture
) -> type[BaseException]:
    """The source fails in the middle, as it would again."""
    converted()  # tests share this one; it must not be the one that fails
    fail_at_read(monkeypatch, 8, request.param)
    return request.param  # type: ignore[no-any-return]


def test_a_conversion_that_fails_leaves_nothing(
    interrupted: type[BaseException], tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    with pytest.raises(interrupted):
        run_convert(tiny_checkpoint(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_old_checkpoint_survives_a_failed_replacement(
    interrupted: type[BaseException],
    tiny_checkpoint: Fixture,
    converted: Fixture,
    run_convert: Fixture,
    tmp_path: Path,
) -> None:
    shutil.copytree(converted(), tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(interrupted):
        run_convert(tiny_checkpoint(), tmp_path / "out", force=True, bits="6-1.58")
    assert contents(tmp_path) == before


def test_replacing_leaves_only_the_new(
    tiny_checkpoint: Fixture, converted: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    shutil.copytree(converted(), tmp_path / "out")
    (tmp_path / "out" / "stale.txt").write_text("stale")
    run_convert(tiny_checkpoint(), tmp_path / "out", force=True, bits="6-1.58")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "stale.txt").exists()
    assert json.loads((tmp_path / "out" / RECORD).read_text())["config"]["weights"]["bits"] == 6


def test_an_empty_directory_is_used(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run_convert(tiny_checkpoint(), tmp_path / "out")
    assert (tmp_path / "out" / RECORD).is_file()


def test_parents_are_made(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    run_convert(tiny_checkpoint(), tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a/b/out" / RECORD).is_file()


@pytest.mark.parametrize(
    ("made", "force", "words"),
    [
        ("file", False, "is a file"),
        ("file", True, "is a file"),
        ("checkpoint", False, "not empty.*--force"),
        ("foreign", False, "not empty"),
        ("foreign", True, f"holds no {RECORD}"),
    ],
)
def test_nothing_else_is_overwritten(
    made: str, force: bool, words: str, tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    if made == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / (RECORD if made == "checkpoint" else "thesis.tex")).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SpikeconvError, match=words):
        run_convert(tiny_checkpoint(), target, force=force)
    assert contents(tmp_path) == before


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert contents(tmp_path) == {"a.json": b'{\n  "a": 1\n}\n'}
