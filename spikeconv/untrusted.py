"""Files that somebody else wrote: regular ones only, and no more of them than makes sense."""

import os
import stat
from pathlib import Path

from spikeconv.errors import SpikeconvError

__all__ = ["kind_of", "read_bounded", "shorten"]

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(mode: int) -> str | None:
    """What a file is that is no regular one, or None: it is one."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no regular file")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a regular file; a pipe or a device is not waited for.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it is missing or cannot be read.
        SpikeconvError: it is no regular file, or larger.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(opened)
        if (kind := kind_of(state.st_mode)) is not None:
            raise SpikeconvError(f"{path} is {kind}; expected a regular file.")
        with os.fdopen(opened, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(opened)
    if len(data) > most:
        raise SpikeconvError(f"{path} has {state.st_size:,} bytes, more than the {most:,} that such a file may have.")
    return data


def shorten(name: str, most: int = 100) -> str:
    """A name out of somebody's file for a sentence: on one line, and not without end."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
