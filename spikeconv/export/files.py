"""Files that are written whole or not at all, and arrays in them: NumPy's `.npz`, Parquet."""

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["whole", "write_npz", "write_parquet"]

Named = tuple[str, NDArray[Any]]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch file beside a path, which takes its place when the block ends well.

    Raises:
        OSError: it cannot be written; an earlier file is then as it was.
    """
    scratch = path.with_name(f".{path.name}.incomplete-{os.getpid()}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Iterable[Named]) -> int:
    """Write arrays one by one, as `numpy.load` reads them: no model has to be in memory twice; returns how many.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    written = 0
    with whole(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
            written += 1
    return written


def write_parquet(path: Path, arrays: Iterable[Named]) -> int:
    """Write the events of `event_arrays` as a table; returns how many columns it has.

    One row for an event; `layer` is the linear's name, from a dictionary. What is no column (slot weights, scales, zero
    points) is the JSON text `spikeconv` of the schema's metadata, by kind and linear.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    import pyarrow as pa
    from pyarrow import parquet

    found = dict(arrays)
    names, layer = found.pop("names"), found.pop("layer")
    columns: dict[str, Any] = {"layer": pa.DictionaryArray.from_arrays(pa.array(layer), pa.array(names.tolist()))}
    aside: dict[str, dict[str, list[Any]]] = {}
    for name, array in found.items():
        kind, _, linear = name.partition(":")
        if linear:
            aside.setdefault(kind, {})[linear] = array.tolist()
        else:
            columns[name] = pa.array(array)
    table = pa.table(columns).replace_schema_metadata({"spikeconv": json.dumps({"names": names.tolist(), **aside})})
    with whole(path) as scratch:
        parquet.write_table(table, scratch)
    return len(columns)
