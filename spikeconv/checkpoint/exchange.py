"""Renames that other processes see at once, and data that a power loss does not take."""

import ctypes
import errno
import os
import warnings
from pathlib import Path

from spikeconv.errors import SpikeconvWarning

__all__ = ["exchange", "flush", "flush_tree"]

AT_FDCWD = -100
RENAME_EXCHANGE = 2
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders of one file system in one step; False, with a warning, where the system cannot.

    Raises:
        OSError: one of them cannot be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        rename = None
    if rename is not None:
        result = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
        if result == 0:
            return True
        if (code := ctypes.get_errno()) not in UNSUPPORTED:
            raise OSError(code, os.strerror(code), str(other))
    warnings.warn(
        f"{other.parent} cannot exchange folders in one step; for an instant {other.name} was not there.",
        SpikeconvWarning,
        stacklevel=2,
    )
    return False


def flush_tree(folder: Path) -> None:
    """Wait until every file and folder below a folder, and it itself, is on the disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            flush(Path(path, name))
        flush(Path(path))


def flush(path: Path) -> None:
    """Wait until a folder's entries, or a file's bytes, are on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
