"""One checkpoint that several processes write, on one host or on many that share a folder.

The scratch folder is the usual one; it appears whole, with its shards laid out, by one rename. Beside it lies the
folder of those at work, with a lease for every unit. A lease saves work, no more: a unit that is made twice has the
same bytes, written to the same place, so that it does no harm to take a living process for a dead one. Who takes the
last lease publishes as one process would, which compares every byte with the journals first.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.journal import JOURNAL, Entry, Journal, same_or_raise
from spikeconv.checkpoint.layout import Layout
from spikeconv.checkpoint.leases import Members
from spikeconv.checkpoint.lock import is_locked
from spikeconv.checkpoint.scratch import Scratch, check_target, real_target, remove_tree, scratch_of
from spikeconv.checkpoint.shard import Shard
from spikeconv.checkpoint.shards import ShardFiles
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import sha256_of

__all__ = ["SharedScratch", "refuse_shared"]

POLL = 1.0
"""Seconds between two looks at what the others have written."""
SHARED = "-shards"
PUBLISH, SEALED = "publish", "sealed"


class SharedScratch:
    """Context manager of this process's part in a checkpoint.

    Args:
        target: the folder to create.
        layout: what will be written.
        begun_with: what must be the same for all who write it.
        shard: which of them this is.
        units: everything there is to make.

    Attributes:
        done: the units that were written when somebody last looked, by anybody.
        alone: whether nobody else has been seen.
        is_over: whether all is written, and whoever publishes it has come so far that nothing can be added.

    Raises:
        SpikeconvError: the target is in the way or cannot be written, another conversion to it was begun, one process
            alone is writing it, or there is one of this number already.
    """

    def __init__(
        self, target: Path, layout: Layout, begun_with: Mapping[str, Any], shard: Shard, units: Sequence[str]
    ) -> None:
        self.target = real_target(target)
        self.scratch = scratch_of(self.target)
        self._place = _place(self.scratch)
        self._layout, self._begun_with = layout, dict(begun_with)
        self._units = {unit: str(index) for index, unit in enumerate(units)}
        self._members = Members(self._place, shard)
        self._files = ShardFiles(layout)
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self.done: dict[str, Entry] = {}
        self.alone, self.is_over = True, False

    def __enter__(self) -> Self:
        try:
            check_target(self.target, False, RECORD)
        except SpikeconvError:
            self._clean()
            raise
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            self._members.__enter__()
        except OSError as error:
            raise SpikeconvError(f"Cannot write to {self._place.parent}: {error.strerror}.") from None
        try:
            self._members.check()
            if not any(map(self._members.is_alive, self._members.others())) and is_locked(self.scratch):
                raise SpikeconvError(f"{self.target} is being written by another process, alone.")
            if Journal.read(self.scratch) is None:
                self._lay_out()
            self.refresh()
            if self.is_published:
                raise SpikeconvError(f"{self.target} has just been published by other shards; nothing is left to do.")
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def claim(self, unit: str) -> bool:
        """Take a unit that nobody living has taken or made; from any thread.

        Raises:
            SpikeconvError: the file system cannot hold leases.
        """
        if unit in self.done or self.is_over or not (number := self._lease(self._units[unit])):
            return False
        if number > 1:  # of the dead, who may have finished it
            self.refresh()
        return unit not in self.done and not self.is_over

    def write(
        self, unit: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], read: Mapping[str, str]
    ) -> dict[str, str]:
        """Write the tensors of a unit, from any thread; as `Sink.write`."""
        with self._lock:
            if self._journal is None:
                self._files.share(self.scratch)
                self._journal = Journal(self.scratch, self._begun_with, {}, self._members.token)
        digests = self._files.write(tensors)
        entry = Entry(digests, dict(note), dict(read))
        with self._lock:
            self._journal.add(unit, entry)
            self.done[unit] = entry
        return digests

    def refresh(self) -> None:
        """Look at what has been written.

        Raises:
            SpikeconvError: it is another conversion; or the scratch folder is gone, and nothing was published.
        """
        others = self._members.others()
        self.alone = self.alone and not others
        for token in others:
            self._members.is_alive(token)  # each look counts
        found = Journal.read(self.scratch)
        if found is None and (seal := self._seal) is not None:
            found, self.is_over = Journal.contents(seal), True
        if found is not None:
            same_or_raise(self.scratch, found[0], self._begun_with)
            with self._lock:
                self.done |= found[1]
        elif not self.is_published:
            raise SpikeconvError(
                f"{self.scratch} is gone, and {self.target} was not published: another shard ended with an error, or "
                "somebody removed it. The same command begins anew."
            )
        self.is_over = self.is_over or self.is_published

    @property
    def is_kept(self) -> bool:
        """Whether the scratch folder is there for the same conversion to go on."""
        return _holds_journal(self.scratch)

    @property
    def is_published(self) -> bool:
        """Whether the checkpoint is there: its record is the last file to come."""
        return (self.target / RECORD).is_file()

    @property
    def left(self) -> list[str]:
        """Units that were not written when somebody last looked."""
        return [unit for unit in self._units if unit not in self.done]

    def wait(self) -> None:
        """Let some time pass, and look again."""
        time.sleep(POLL)
        self.refresh()

    def is_ours_to_publish(self) -> bool:
        """When all is written: wait until it is published by another (False), or this process is to do it (True)."""
        while not self.is_published:
            if self._lease(PUBLISH):
                return not (self.is_published or (self._seal is not None and self._finish()))
            self.wait()
        return False

    def seal(self, folder: Path) -> None:
        """Keep the journal of a scratch folder that holds the whole checkpoint: others can do the last rename."""
        name = f"{SEALED}.{sha256_of(folder / RECORD)}"
        shutil.copyfile(folder / JOURNAL, fresh := self._place / f"new-{name}")
        fresh.rename(self._place / name)

    @property
    def _seal(self) -> Path | None:
        """The journal of what is whole, and published or about to be; an older checkpoint in its place has none."""
        if not _holds_journal(self.scratch):
            for folder in (self.scratch, self.target):
                with suppress(OSError):
                    if (seal := self._place / f"{SEALED}.{sha256_of(folder / RECORD)}").is_file():
                        return seal
        return None

    def _finish(self) -> bool:
        """Do that step; True."""
        try:
            with _Sealed(self.target, RECORD) as sealed:
                sealed.publish()
        except SpikeconvError:
            if not self.is_published:  # else it came while this one looked
                raise
        return True

    def _lay_out(self) -> None:
        """Make the scratch folder; who is second keeps the first one's."""
        if self._seal is not None:
            return
        fresh = self._place / f"new-{self._members.token}"
        if self.scratch.exists() and not _holds_journal(self.scratch):  # an old checkpoint that was replaced, say
            with suppress(OSError):
                self.scratch.rename(self._place / f"old-{self._members.token}")
        fresh.mkdir()
        files = ShardFiles(self._layout)
        try:
            files.create(fresh, reserve=False)  # every process would take the place once
            Journal(fresh, self._begun_with, {}).close()
            fresh.rename(self.scratch)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # it is there
                raise
        finally:
            files.close()
            remove_tree(fresh)

    def _lease(self, name: str) -> int:
        try:
            return self._members.lease(name)
        except FileNotFoundError:  # the folder of those at work goes when all is published
            self.refresh()
            return 0
        except OSError as error:
            raise SpikeconvError(
                f"{self._place} cannot hold symbolic links ({error.strerror}), which --shard shares the work by; "
                "choose an --output on another file system."
            ) from None

    def _leave(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self._files.close()
        self._members.__exit__()
        self._clean()
        with suppress(OSError):  # others are there, or leases
            self._place.rmdir()

    def _clean(self) -> None:
        """When all is published, leave nothing else; the last of those that live does it."""
        if self.is_published:
            if not any(map(self._members.is_alive, self._members.others())):  # they would like to read the journal
                remove_tree(self._place)
            if self.scratch.parent == self.target:  # its files were moved out, and who did it may be dead
                remove_tree(self.scratch)


class _Sealed(Scratch):
    """A scratch folder that holds all of the target."""

    def prepare(self) -> None:
        """Keep everything."""

    def is_stale(self) -> bool:
        """It is good."""
        return False

    def keeps(self, kind: type[BaseException]) -> bool:
        """Whatever happens."""
        return True


def refuse_shared(target: Path, notify: Callable[[str], None] = lambda text: None) -> None:
    """Refuse to write a checkpoint alone that several are writing; if all of them are dead, forget their leases.

    Raises:
        SpikeconvError: one of them lives.
    """
    place = _place(scratch_of(real_target(target)))
    if not place.is_dir():
        return
    members = Members(place, None)
    for token, member in members.others().items():
        notify(f"Looking whether shard {member.shard} ({member}) is still at work.")
        if members.proves_alive(token):
            raise SpikeconvError(
                f"{target} is being written by shard {member.shard} ({member}); join it with another --shard, or stop "
                "it."
            )
    remove_tree(place)


def _place(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.name}{SHARED}")


def _holds_journal(folder: Path) -> bool:
    return os.path.lexists(folder / JOURNAL)
