"""SHA-256 of whole files, found by the way: of gigabytes it takes as long as rounding them."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from spikeconv.hashing import sha256_of

__all__ = ["FileHashes"]


class FileHashes:
    """Hashes of some files of different names."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = list(files)
        self._digests: dict[str, str] = {}

    @property
    def found(self) -> dict[str, str]:
        """By name, in the order of the files, what is known so far."""
        return {path.name: self._digests[path.name] for path in self._files if path.name in self._digests}

    def tasks(self) -> list[Callable[[], None]]:
        """What has to be done, for any thread and in any order."""
        return [partial(self._hash, path) for path in self._files]

    def all(self, jobs: int) -> dict[str, str]:
        """Do it now, on so many threads; returns what is found."""
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._hash, self._files))
        return self.found

    def _hash(self, path: Path) -> None:
        self._digests[path.name] = sha256_of(path)
