"""Only what JSON has."""

import math
from typing import Any

__all__ = ["plain_value"]


def plain_value(value: Any) -> Any:
    """A copy for `json.dumps`: NaN and infinity become null, sets and tuples lists, anything unknown its text."""
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
