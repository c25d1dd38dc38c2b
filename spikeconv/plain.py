"""JSON: values that it has; and files that are written whole."""

import json
import math
import os
from pathlib import Path
from typing import Any

__all__ = ["plain_value", "write_json", "write_text"]


def plain_value(value: Any) -> Any:
    """A copy for `json.dumps`: NaN and infinity become null, sets and tuples lists, anything unknown its text."""
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    scratch = path.with_name(f".{path.name}.incomplete-{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
