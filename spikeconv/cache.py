"""Where fetched wheels, built kernels and the name of the last checkpoint live between runs.

Code is loaded from there, so nobody else may be able to write it: folders are made with mode 0700, and what is loaded
is looked at first, as ssh looks at its keys.
"""

import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

__all__ = ["cache_dir", "make_private", "remove_leftovers", "who_else", "writable_dir"]

OTHERS = 0o022
"""Mode bits by which somebody else can write."""
HOUR = 3600.0


def cache_dir() -> Path:
    """`$SPIKECONV_CACHE`, or `spikeconv` in `$XDG_CACHE_HOME` (`~/.cache`), or a private folder where no home is."""
    named, folder = os.environ.get("SPIKECONV_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(named).expanduser() if named else Path(folder).expanduser() / "spikeconv"
    except RuntimeError:  # neither $HOME nor an entry in the password file, as in `docker run -u 12345`
        return _temporary()


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")


def who_else(path: Path) -> str | None:
    """Why somebody else could have put a file or folder of the cache there, in a few words; None if nobody could.

    It and every folder up to the cache's own belong to this user (or to root), and others cannot write them; the same
    holds where a link leads.
    """
    folder = cache_dir().absolute()
    for place in {path.absolute(), path.resolve()}:
        parents = [each for each in (place, *place.parents) if each == folder or each.is_relative_to(folder)] or [place]
        for each in parents:
            found = each.lstat()
            if found.st_uid not in (os.getuid(), 0):
                return f"{each} belongs to another user"
            if not each.is_symlink() and found.st_mode & OTHERS:
                return f"{each} can be written by others (mode {found.st_mode & 0o777:03o})"
    return None


def writable_dir() -> Path:
    """`cache_dir()` if that can be written, and by nobody else; else the private folder."""
    folder = cache_dir()
    try:
        make_private(folder)
        writable = os.access(folder, os.W_OK | os.X_OK) and who_else(folder) is None
    except OSError:
        writable = False
    return folder if writable else _temporary()


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what killed processes left in a folder: work folders called so that nobody has touched for an hour."""
    for path in folder.glob(f"{prefix}*"):
        try:
            stale = time.time() - path.stat().st_mtime > HOUR
        except OSError:  # gone meanwhile
            continue
        if stale and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@cache
def _temporary() -> Path:
    """A folder that nobody else can write, for libraries are loaded from it: the same in every run where possible."""
    folder = Path(tempfile.gettempdir(), f"spikeconv-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="spikeconv-"))
