"""JSON objects in files that somebody else wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.untrusted import read_bounded, shorten

__all__ = ["read_json"]

MOST_BYTES = 64 << 20
"""An index of 100,000 tensors has 10 MB."""


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON object from a file of at most so many bytes.

    Raises:
        SpikeconvError: the file is missing, no regular file or too large, or does not hold a JSON object
            of different keys.
    """
    try:
        value = json.loads(read_bounded(path, most).decode("utf-8"), object_pairs_hook=_object)
    except FileNotFoundError:
        raise SpikeconvError(f"{path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpikeconvError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise SpikeconvError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return dict(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: readers disagree on which of two values counts."""
    value: dict[str, Any] = {}
    for key, entry in pairs:
        if key in value:
            raise ValueError(f"the key {shorten(key)!r} stands twice in one object")
        value[key] = entry
    return value
