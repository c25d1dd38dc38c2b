"""One writer for a folder: a lock on the folder itself, which ends with the process that holds it.

The kernel lets go of it however the process ends, so that no lock can be stale and no process number be mistaken for
another's. A note in the folder says who holds it.
"""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from spikeconv.errors import SpikeconvError

__all__ = ["OWNER", "UNSUPPORTED", "is_locked", "lock_folder"]

OWNER = ".owner"
"""The note."""
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""From file systems without locks."""


def lock_folder(folder: Path, target: Path, note: bool = True) -> int:
    """Create a folder if it is not there, and lock it; returns the open file that holds the lock.

    Args:
        folder: the scratch folder.
        target: what it will become, for the sentence.
        note: leave a note of who holds it.

    Raises:
        SpikeconvError: another process holds it, or it cannot be created.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SpikeconvError(f"Cannot write to {folder.parent}: {error.strerror}.") from None
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(held)
                raise SpikeconvError(f"{target} is being written by another process{_owner(folder)}.") from None
        if _is_still(folder, held):
            if note:
                _note(folder)
            return held
        os.close(held)  # published or removed by whoever held it until now


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder; not so of one that is not there."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in UNSUPPORTED
    finally:
        os.close(opened)
    return False


def _is_still(folder: Path, held: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(held))
    except FileNotFoundError:
        return False


def _note(folder: Path) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
    with suppress(OSError):  # a full disk shows soon enough
        (folder / OWNER).write_text(json.dumps(owner))


def _owner(folder: Path) -> str:
    try:
        note = json.loads((folder / OWNER).read_text())
        return f" ({int(note['pid'])} on {str(note['host'])[:60]}, since {str(note['since'])[:20]})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
