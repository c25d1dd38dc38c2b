"""What all settings share: frozen models that know their fields, with numbers that are numbers."""

import reprlib
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["FLOAT_BITS", "Number", "Settings", "Whole", "shown"]

FLOAT_BITS = 16
"""Stands for a side (weights or inputs) that stays in floating point."""


class Settings(BaseModel):
    """A part of a scheme."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value}")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
"""A whole number; true and false are none."""

Number = Annotated[float, BeforeValidator(_no_bool)]
"""A finite number; true and false are none."""


def shown(value: Any) -> str:
    """A value as a sentence quotes it, however large or deep it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a {type(value).__name__} of many digits"
