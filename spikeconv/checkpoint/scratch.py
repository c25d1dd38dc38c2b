"""A folder that appears whole or not at all: it is filled under another name, then renamed.

Where the target does not exist (or is to be replaced), the scratch folder lies beside it, and one rename, or one
exchange, publishes it. A folder that is there already may be a mounted volume, the current folder or the end of a link,
which a rename would break, or lie where nothing can be created: then the scratch folder lies inside, and its files are
moved up, those by which the folder is known last. There is one scratch folder for a target, locked by whoever fills it;
what a killed process left there is found, and what it had moved out of the way comes back.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from spikeconv.checkpoint.exchange import exchange, flush, flush_tree
from spikeconv.checkpoint.lock import OWNER, lock_folder
from spikeconv.errors import SpikeconvError

__all__ = ["Scratch", "check_target", "real_target", "remove_tree", "scratch_of"]

SCRATCH = ".incomplete"
MOVING = ".moving"
"""In a scratch folder inside its target: the old files are out, and the new ones are coming."""
IGNORED = ("lost+found",)
"""What an empty volume holds."""


class Scratch:
    """Context manager of a scratch folder; `publish` makes it the target, leaving without it removes every trace.

    Args:
        target: the folder to create; a link is followed.
        record: the file by which a folder that may be replaced is known.
        force: replace such a folder.

    Attributes:
        target: the folder's real path.
        scratch: where to write until `publish`.

    Raises:
        SpikeconvError: the target is in the way or cannot be written (see `check_target`).
    """

    def __init__(self, target: Path, record: str, *, force: bool = False) -> None:
        self.target = real_target(target)
        self._record, self._force = record, force
        self._made: list[Path] = []
        self._published = self._keep = False
        self._renamed = False
        self._locks: list[int] = []

    def __enter__(self) -> Self:
        self.scratch = scratch_of(self.target)
        self._inside = self.scratch.parent == self.target
        found, stale = self.scratch.exists(), False
        try:
            if found or self._old.exists():
                self._locks.append(lock_folder(self.scratch, self.target))
                self._recover()
                stale = self.is_stale()
            check_target(self.target, self._force, self._record)
            if not self._locks:
                self._made = [folder for folder in self.scratch.parents if not folder.exists()]
                self._locks.append(lock_folder(self.scratch, self.target))
            self.prepare()
        except BaseException:
            if self._locks and (stale or not found):
                self._remove()
            self._release()
            raise
        return self

    def prepare(self) -> None:
        """Make the scratch folder, which is locked, ready to be filled; what was left in it is removed."""
        self.clear({OWNER})

    def clear(self, kept: Collection[str]) -> None:
        """Remove everything in the scratch folder but what is called so."""
        for path in self.scratch.iterdir():
            if path.name not in kept:
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def is_stale(self) -> bool:
        """Whether what was found in the scratch folder is good for nothing."""
        return True

    def seal(self) -> None:
        """Take out of the scratch folder, which is on the disk now, what does not belong to the target."""
        (self.scratch / OWNER).unlink(missing_ok=True)
        flush(self.scratch)

    def keeps(self, kind: type[BaseException]) -> bool:
        """Whether what was written is worth something after an exception of this kind."""
        return False

    def publish(self) -> None:
        """Put the folder in its place, and what it replaces out of it.

        Raises:
            SpikeconvError: something that must not be replaced came there meanwhile; what was written is kept.
        """
        for folder in [path for path in self.scratch.rglob("*") if path.is_dir()]:
            _make_writable(folder)  # as copied: nobody could replace the checkpoint
        try:
            check_target(self.target, self._force, self._record)
        except SpikeconvError as error:
            self._keep = True
            raise SpikeconvError(f"{error} What was written meanwhile is in {self.scratch}.") from None
        flush_tree(self.scratch)
        self.seal()
        self._move_in() if self._inside else self._swap()
        self._published = True
        flush(self.target.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._published or not (self._keep or (kind is not None and self.keeps(kind))):
            self._remove()
        self._release()

    def _remove(self) -> None:
        """Leave nothing but what was published."""
        remove_tree(self._old)
        if not self._renamed:  # else that name is free for another process
            remove_tree(self.scratch)
        if not self._published:
            for folder in self._made:
                with suppress(OSError):  # not empty, or not there
                    folder.rmdir()

    @property
    def _old(self) -> Path:
        return self.scratch.with_name(f"{self.scratch.name}-old")

    def _release(self) -> None:
        if self._locks and not self._published:
            (self.scratch / OWNER).unlink(missing_ok=True)
        for lock in self._locks:
            os.close(lock)
        self._locks = []

    def _swap(self) -> None:
        if self.target.exists():
            self._locks.append(lock_folder(self.target, self.target, note=False))  # it will have the scratch's name
            if exchange(self.scratch, self.target):
                return
        with _Moves() as moves:
            if self.target.exists():
                moves.move(self.target, self._old)
            moves.move(self.scratch, self.target)
        self._renamed = True

    def _move_in(self) -> None:
        entries = _entries(self.target)
        try:
            with _Moves() as moves:
                if entries:
                    self._old.mkdir()
                for entry in sorted(entries, key=self._is_last, reverse=True):  # without those, nothing is complete
                    moves.move(entry, self._old / entry.name)
                (self.scratch / MOVING).touch()
                for entry in self._new():
                    moves.move(entry, self.target / entry.name)
        except BaseException:
            (self.scratch / MOVING).unlink(missing_ok=True)
            raise

    def _new(self) -> list[Path]:
        entries = (path for path in self.scratch.iterdir() if path.name not in (MOVING, OWNER))
        return sorted(entries, key=self._is_last)

    def _is_last(self, path: Path) -> int:
        """What a folder is known by is the last to come and the first to go."""
        return (path.name == "config.json") + 2 * (path.name == self._record)

    def _recover(self) -> None:
        """Finish what a killed process had begun to publish, or put back what it had moved away."""
        if (self.scratch / MOVING).exists():
            for entry in self._new():
                entry.rename(self.target / entry.name)
            remove_tree(self._old)
        elif self._inside:
            for entry in self._old.iterdir() if self._old.is_dir() else ():
                if not os.path.lexists(self.target / entry.name):
                    entry.rename(self.target / entry.name)
        elif self._old.is_dir() and not self.target.exists():
            self._old.rename(self.target)
        remove_tree(self._old)


class _Moves:
    """Renames that are taken back if one of them fails."""

    def __init__(self) -> None:
        self._done: list[tuple[Path, Path]] = []

    def move(self, source: Path, target: Path) -> None:
        if source.is_dir() and not source.is_symlink() and source.parent != target.parent:
            _make_writable(source)  # its entry for the parent changes
        self._done.append((source, target))
        source.rename(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # Ctrl-C too
            for source, target in reversed(self._done):
                if not os.path.lexists(source):
                    target.rename(source)


def scratch_of(target: Path) -> Path:
    """Where a folder (its real path) is filled: beside it, or inside."""
    inside = any(target.glob(f"{SCRATCH}*")) or _filled_inside(target)
    return target / SCRATCH if inside else target.with_name(f".{target.name}{SCRATCH}")


def check_target(target: Path, force: bool, record: str) -> None:
    """Refuse an output that would overwrite something or cannot be written, before any work.

    Raises:
        SpikeconvError: it is a file, or a non-empty folder and `force` is not set or it holds no `record`, or nothing
            can be created where it is to lie.
    """
    target = real_target(target)
    if target.exists() and not target.is_dir():
        raise SpikeconvError(f"{target} is a file; expected a directory to create.")
    filled = target.is_dir() and bool(_entries(target))
    if filled and not force:
        raise SpikeconvError(
            f"{target} exists and is not empty; choose another --output or pass --force to replace it."
        )
    if filled and not (target / record).is_file():
        raise SpikeconvError(f"{target} holds no {record}; --force replaces only what does. Choose another --output.")
    folder = target if _filled_inside(target) else next(path for path in target.parents if path.exists())
    if not folder.is_dir():
        raise SpikeconvError(f"{target} cannot be created: {folder} is a file.")
    if not _is_writable(folder):
        raise SpikeconvError(f"{target} cannot be written: nothing can be created in {folder}.")


def remove_tree(folder: Path) -> None:
    """Remove a folder and what is in it, read-only folders too; what cannot be removed stays."""
    for path, _, _ in os.walk(folder):  # from the top: what cannot be listed becomes readable first
        with suppress(FileNotFoundError):  # somebody else removes it too
            _make_writable(Path(path))
            for name in os.listdir(path):
                _make_writable(Path(path, name))
    shutil.rmtree(folder, ignore_errors=True)


def real_target(target: Path) -> Path:
    """The path of an output with its links followed.

    Raises:
        SpikeconvError: a link leads to itself.
    """
    try:
        return target.resolve()
    except (OSError, RuntimeError):
        raise SpikeconvError(f"{target} is a link that leads to itself; choose another --output.") from None


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, but for what we or the file system keep there."""
    return [path for path in folder.iterdir() if path.name not in IGNORED and not path.name.startswith(SCRATCH)]


def _filled_inside(target: Path) -> bool:
    if not target.is_dir():
        return False
    return not _entries(target) or target.is_mount() or _is_current(target) or not _is_writable(target.parent)


def _is_current(folder: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:  # removed under our feet
        return False


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _make_writable(path: Path) -> None:
    if path.is_dir() and not path.is_symlink() and path.stat().st_mode & 0o700 != 0o700:
        try:
            path.chmod(path.stat().st_mode | 0o700)
        except OSError:  # somebody else's
            return
