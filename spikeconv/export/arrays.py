"""A `.npz` file that is written array by array, whole or not at all: no model has to be in memory twice."""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_npz"]


def write_npz(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Write arrays as `numpy.load` reads them; returns how many.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    scratch, written = path.with_name(f".{path.name}.incomplete-{os.getpid()}"), 0
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
                written += 1
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return written
