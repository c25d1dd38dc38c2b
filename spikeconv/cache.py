"""Where fetched wheels, built kernels and the name of the last checkpoint live between runs."""

import os
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["cache_dir", "writable_dir"]


def cache_dir() -> Path:
    """`$SPIKECONV_CACHE`, or `spikeconv` in `$XDG_CACHE_HOME` (`~/.cache`), or a private folder where no home is."""
    named, folder = os.environ.get("SPIKECONV_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(named).expanduser() if named else Path(folder).expanduser() / "spikeconv"
    except RuntimeError:  # neither $HOME nor an entry in the password file, as in `docker run -u 12345`
        return _temporary()


def writable_dir() -> Path:
    """`cache_dir()` if that can be written, else the private folder."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    return folder if writable else _temporary()


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
