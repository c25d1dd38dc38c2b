"""What libraries say of a disk that is full or fails, said as the system says it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spikeconv.errors import SpikeconvError

__all__ = ["plain_errors"]

FULL = 1 << 20
"""Bytes; with fewer left, whatever went wrong while writing went wrong for lack of them."""


@contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """An `OSError` instead of what safetensors, tokenizers and torch raise where nothing can be written into a folder.

    Raises:
        OSError: as described; other errors pass.
    """
    try:
        yield
    except (OSError, SpikeconvError):
        raise
    except Exception as error:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        if f"os error {errno.ENOSPC}" in str(error) or shutil.disk_usage(existing).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        if "I/O error" in str(error):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder)) from error
        raise
