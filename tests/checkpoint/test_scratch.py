"""A folder is published whole or not at all, wherever it lies; nothing that was there is lost."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikeconv.checkpoint import scratch
from spikeconv.checkpoint.scratch import Scratch, check_target, remove_tree
from spikeconv.errors import SpikeconvError

RECORD = "record.json"
NEW = {"a.txt": "new a", "sub/b.txt": "new b", RECORD: "new"}
OLD = {"a.txt": "old a", "old/c.txt": "old c", RECORD: "old"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in folder.rglob("*") if f.is_file()}


def publish(target: Path, *, force: bool = False) -> None:
    with Scratch(target, RECORD, force=force) as new:
        fill(new.scratch, NEW)
        new.publish()


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user for whom permissions count, which they do not for root."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        os.seteuid(12345)
    monkeypatch.chdir(folder)
    try:
        yield folder
    finally:
        os.seteuid(os.getuid())
        os.chdir("/")
        remove_tree(folder)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent folder; an empty one: by name, by a link, as the current one, as a volume; a link to nowhere yet."""
    for number, place in enumerate(("absent", "deep/er/absent", "empty", "link", ".", "volume", "dangling")):
        home = tmp_path / str(number)
        home.mkdir()
        monkeypatch.chdir(home)
        if place in ("empty", "volume"):
            (home / place).mkdir()
        if place == "link":
            (home / "far").mkdir()
        if place in ("link", "dangling"):
            (home / place).symlink_to("far")
        if place == "volume":
            (home / place / "lost+found").mkdir()
        before = (home / place).stat().st_ino if (home / place).exists() else None
        publish(Path(place))
        target = home / place
        assert contents(target) == NEW, place
        assert before in (None, target.stat().st_ino)
        assert target.is_symlink() == (place in ("link", "dangling"))
        assert contents(Path.cwd()).keys() >= {RECORD} or place != "."
        assert not [path for path in home.rglob("*") if ".incomplete" in path.name]


def test_every_interrupt_while_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename fails, before it is done or just after: everything is as before, and nothing is left over."""
    monkeypatch.setattr(scratch, "exchange", lambda one, other: False)
    rename, failures = Path.rename, 0
    for state in ("absent", "empty", "old", "old and current"):
        for error in (KeyboardInterrupt, OSError):
            for after in (False, True):
                for fatal in range(20):
                    home = Path(tempfile.mkdtemp(dir=tmp_path))
                    target = home / "out"
                    if state != "absent":
                        target.mkdir()
                    fill(target, OLD) if "old" in state else None
                    monkeypatch.chdir(target if "current" in state else home)
                    before, seen = contents(home), []

                    def failing(self: Path, to: Path) -> Path:
                        seen.append(to)  # noqa: B023 (called in this round)
                        if len(seen) == fatal + 1:  # noqa: B023
                            if after:  # noqa: B023
                                rename(self, to)
                            raise error  # noqa: B023
                        return rename(self, to)

                    with monkeypatch.context() as patch:
                        patch.setattr(Path, "rename", failing)
                        try:
                            publish(target, force=True)
                        except error:
                            failures += 1
                            assert contents(home) == before, (state, error, after, fatal)
                            assert not [path for path in home.rglob("*") if ".incomplete" in path.name]
                            assert target.exists() == (state != "absent")
                            continue
                    assert contents(target) == NEW and len(seen) <= fatal
                    break
                else:
                    raise AssertionError("so many renames?")
    assert failures == 2 * 2 * (1 + 3 + 2 + 6)


def test_the_record_comes_last_and_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", OLD)
    monkeypatch.chdir(tmp_path / "out")
    moved: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (moved.append(self.name), rename(self, to))[1])
    publish(Path("."), force=True)
    assert moved[0] == moved[-1] == RECORD and len(moved) == 6
    assert contents(tmp_path / "out") == NEW


def test_a_volume_in_a_folder_that_cannot_be_written(user: Path) -> None:
    (user / "root/volume").mkdir(parents=True)
    (user / "root").chmod(0o555)
    publish(user / "root/volume")
    assert contents(user / "root/volume") == NEW
    (user / "root/volume/a.txt").write_text("old", encoding="utf-8")
    publish(user / "root/volume", force=True)
    assert contents(user / "root/volume") == NEW
    for target in ("root/other", "root/o/ther"):
        with pytest.raises(SpikeconvError, match=r"nothing can be created in .*root"):
            check_target(user / target, False, RECORD)


def test_read_only_folders_are_replaced(user: Path) -> None:
    """In the old output, in the new one as a source brought it, in one that is given up; in both ways to publish."""
    for target, folder in (("out", user), (".", user / "here")):
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        for _ in range(3):
            with Scratch(Path(target), RECORD, force=True) as new:
                fill(new.scratch, NEW)
                (new.scratch / "sub").chmod(0o555)
                new.publish()
            (folder / target / "sub").chmod(0o555)
        with Scratch(Path(target), RECORD, force=True) as new:
            fill(new.scratch, NEW)
            (new.scratch / "sub").chmod(0o555)
        assert contents(folder / target) == NEW
        assert not [path for path in folder.rglob("*") if ".incomplete" in path.name]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    for target in (tmp_path / "absent", tmp_path / "empty"):
        if target.name == "empty":
            target.mkdir()
        words = r"is not empty.* What was written meanwhile is in"
        with pytest.raises(SpikeconvError, match=words) as refused, Scratch(target, RECORD) as new:
            fill(new.scratch, NEW)
            fill(target, {"thesis.txt": "mine"})
            new.publish()
        assert contents(target)["thesis.txt"] == "mine"
        assert contents(Path(str(refused.value).split(" is in ")[1].removesuffix("."))) == NEW


def test_a_failure_leaves_no_parents(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Scratch(tmp_path / "a/b/c", RECORD):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    fill(tmp_path / "foreign", {"thesis.txt": "mine"})
    fill(tmp_path / "old", OLD)
    for target, force, words in (
        ("file", True, "is a file"),
        ("file/out", True, "file is a file"),
        ("loop", True, "leads to itself"),
        ("foreign", False, "not empty.*--force"),
        ("foreign", True, "holds no record.json"),
        ("old", False, "not empty.*--force"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            check_target(tmp_path / target, force, RECORD)
    for target in ("absent", "a/b/c"):
        check_target(tmp_path / target, False, RECORD)
    check_target(tmp_path / "old", True, RECORD)
