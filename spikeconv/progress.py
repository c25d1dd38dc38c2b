"""How library code reports progress without knowing about a terminal."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

__all__ = ["Track", "named", "silent"]

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable of `total` items and shows how far it has come, under the label `description`."""

    def __call__(self, items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Yield the items unchanged."""
        ...


def silent(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show nothing (the default of every library function)."""
    return items


def named(track: Track, name: str) -> Track:
    """A display that says whose pass it shows, where there are several."""

    def shown(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        return track(items, f"{name}: {description}", total)

    return shown
