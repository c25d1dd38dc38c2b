"""Where fetched wheels, built kernels and the name of the last checkpoint live between runs."""

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """`$SPIKECONV_CACHE`, or `spikeconv` in `$XDG_CACHE_HOME` (`~/.cache`)."""
    if folder := os.environ.get("SPIKECONV_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "spikeconv"
