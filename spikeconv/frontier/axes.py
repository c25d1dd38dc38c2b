"""Logarithmic axes: from values to places in a picture, and which values are written at them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis"]


@dataclass(frozen=True)
class Axis:
    """An axis on which equal factors are equally long.

    Attributes:
        low, high: the values at its ends, positive.
        start, end: the places of its ends, in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, *, least: float, most: float) -> "Axis":
        """An axis that holds all values, and a little room at its ends.

        Args:
            values: positive; none: from one half to two.
            start, end: places of its ends.
            least: what the axis begins at, at most: it begins lower where a value is.
            most: a bound on its end; larger values are drawn at the end.
        """
        low = min([least, *values]) if values else 0.5
        high = min(max([*values, low * 1.5]), most) if values else 2.0
        room = (high / low) ** 0.07
        return cls(low / room, high * room, start, end)

    def place(self, value: float) -> float:
        """Where a value stands; at an end if it is beyond it."""
        inside = min(max(value, self.low), self.high)
        return self.start + (self.end - self.start) * math.log(inside / self.low) / math.log(self.high / self.low)

    def beyond(self, value: float) -> bool:
        """Whether a value is larger than the axis holds."""
        return value > self.high

    def ticks(self, candidates: Sequence[float], apart: float) -> list[float]:
        """Of some values those that fit, at least `apart` pixels from each other; earlier ones go first."""
        found: list[float] = []
        for value in candidates:
            if self.low <= value <= self.high and all(
                abs(self.place(value) - self.place(other)) >= apart for other in found
            ):
                found.append(value)
        return sorted(found)
