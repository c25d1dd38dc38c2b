"""JSON objects in files that somebody else wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        SpikeconvError: the file is missing or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpikeconvError(f"{path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SpikeconvError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise SpikeconvError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return dict(value)
