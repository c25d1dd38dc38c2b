"""Who of several processes, perhaps on several hosts, does what: leases in a folder that all of them share.

No service of our own and no clock in common. A process is a file whose time it renews; an observer calls it dead when
that time has not changed for `PATIENCE` seconds of the observer's own clock, and at once where both run on one machine
and the kernel has let go of the file's lock. A lease is a symbolic link to the name of its holder, which file systems
create in one step and only once, those over a network too; that of a dead holder is followed by one of the next number.
"""

import fcntl
import itertools
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from spikeconv.checkpoint.lock import UNSUPPORTED
from spikeconv.checkpoint.shard import Shard
from spikeconv.errors import SpikeconvError

__all__ = ["BEAT", "PATIENCE", "Member", "Members"]

BEAT = 5.0
"""Seconds between two signs of life."""
PATIENCE = 60.0
"""Seconds without one: longer than network file systems believe what they remember of a file."""
LOOK = 0.2
"""Seconds between two looks at a sign of life that decides whether to begin."""
SUFFIX = ".member"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Member(NamedTuple):
    """A process that takes part."""

    shard: Shard
    host: str
    boot: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host[:60]}, since {self.since[:20]}"


class Members:
    """Context manager of this process as one of those that share a folder; its leases end with it.

    Args:
        folder: the folder, which exists.
        shard: which one this is.
    """

    def __init__(self, folder: Path, shard: Shard | None) -> None:
        self._folder, self._shard = folder, shard
        self.token = f"{shard.index if shard else 0}-{secrets.token_hex(6)}"
        self._boot = _boot()
        self._seen: dict[str, tuple[int, float]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._file = -1

    def __enter__(self) -> Self:
        assert self._shard is not None, "who only looks takes no part"
        member = Member(self._shard, socket.gethostname(), self._boot, os.getpid(), time.strftime("%F %T"))
        values = json.dumps({**member._asdict(), "shard": [self._shard.index, self._shard.count]}).encode()
        self._file = os.open(self._path(self.token), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        os.write(self._file, values)
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path(self.token).unlink(missing_ok=True)
        os.close(self._file)

    def check(self) -> None:
        """Refuse to be the second of a number, or one of another count than those at work.

        Raises:
            SpikeconvError: as described; naming who is there.
        """
        assert self._shard is not None
        for token, member in self.others().items():
            same = member.shard.index == self._shard.index
            if (same or member.shard.count != self._shard.count) and self.proves_alive(token):
                what = "choose another number" if same else f"all must have the same N, not {self._shard}"
                raise SpikeconvError(f"Shard {member.shard} is at work there already ({member}); {what}.")

    def others(self) -> dict[str, Member]:
        """Those that have a file, by token; dead or alive."""
        found = {}
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            token = path.name.removesuffix(SUFFIX)
            with suppress(OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or not written yet
                values = json.loads(path.read_text())
                shard = Shard(*map(int, values.pop("shard")))
                if token != self.token:
                    found[token] = Member(shard, **values)
        return found

    def is_alive(self, token: str) -> bool:
        """Whether a process still takes part; one that ended on another host is told apart after `PATIENCE`."""
        if token == self.token:
            return True
        try:  # opened anew: then a network file system asks for the time
            opened = os.open(self._path(token), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if (held := self._is_locked(opened)) is not None:
                return held
            beat = os.fstat(opened).st_mtime_ns
        finally:
            os.close(opened)
        now = time.monotonic()
        with self._lock:
            before, since = self._seen.get(token, (None, now))
            self._seen[token] = (beat, now if before != beat else since)
        return before != beat or now - since < PATIENCE

    def proves_alive(self, token: str) -> bool:
        """The same for certain: waits for a sign of life, or for `PATIENCE` in vain."""
        first = None
        while self.is_alive(token):
            beat = self._seen.get(token, (None,))[0]
            if beat is None or (first is not None and beat != first):  # None: the kernel says so
                return True
            first = beat
            time.sleep(LOOK)
        return False

    def lease(self, name: str) -> int:
        """Try to take a lease, from any thread.

        Returns:
            Its number: 1 if nobody had it before, more if those who had are dead; 0 if somebody has it.

        Raises:
            OSError: the file system has no symbolic links, or the folder is gone.
        """
        for number in itertools.count(1):
            path = self._folder / f"{name}.{number}"
            try:
                path.symlink_to(self.token)
                return number
            except FileExistsError:
                holder = os.readlink(path)
            if holder == self.token:  # taken by a request that was sent twice
                return number
            if self.is_alive(holder):
                return 0
        raise AssertionError("unreachable")

    def _is_locked(self, opened: int) -> bool | None:
        """Whether the kernel says that somebody holds the lock of a file; None where it cannot know."""
        try:
            if json.loads(os.pread(opened, 4096, 0))["boot"] != self._boot:
                return None
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return False

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):  # gone with the folder, since all is done; or for a moment out of reach
                os.utime(self._path(self.token))

    def _path(self, token: str) -> Path:
        return self._folder / f"{token}{SUFFIX}"


def _boot() -> str:
    """What tells machines apart, and a machine from itself before it was started again."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()
