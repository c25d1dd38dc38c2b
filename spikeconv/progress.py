"""How library code reports progress without knowing about a terminal."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

__all__ = ["Track", "silent"]

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable of `total` items and shows how far it has come, under the label `description`."""

    def __call__(self, items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Yield the items unchanged."""
        ...


def silent(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show nothing (the default of every library function)."""
    return items
