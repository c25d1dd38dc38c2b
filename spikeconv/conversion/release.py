"""Lets go of a source's files as soon as everything in them is converted."""

import threading
from collections import Counter
from collections.abc import Iterable

from spikeconv.sources.base import Source

__all__ = ["Releases"]


class Releases:
    """Counts what is left of every file.

    Args:
        source: whose files they are.
        units: names of the tensors that will be finished, each once.
    """

    def __init__(self, source: Source, units: Iterable[str]) -> None:
        self._source, self._lock = source, threading.Lock()
        self._left = Counter(file for unit in units if (file := source.file_of(unit)) is not None)

    def finished(self, unit: str) -> None:
        """A tensor is written; called from any thread."""
        if (file := self._source.file_of(unit)) is None:
            return
        with self._lock:
            self._left[file] -= 1
            last = not self._left[file]
        if last:
            self._source.release(file)
