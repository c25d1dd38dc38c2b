"""A source whose tensors are hashed as they are read: what a conversion was made from, and that it stayed the same."""

import threading
from collections.abc import Iterator, Mapping

from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.hashing import Digest, digest_of
from spikeconv.sources.base import Source
from spikeconv.sources.tensor_files import bytes_of
from spikeconv.sources.wrapped import WrappedSource

__all__ = ["ChangedSourceError", "DigestedSource"]


class ChangedSourceError(SpikeconvError):
    """A tensor of a source has other bytes than were noted of it."""


class DigestedSource(WrappedSource):
    """A source, with the hash of every tensor that was read, row by row in the dtype that it was read in.

    Of a safetensors file these are the bytes in the file. They are hashed while they are in the cache: another pass
    over gigabytes would take as long as rounding them.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._lock = threading.Lock()
        self._digests: dict[str, str] = {}
        self._read = threading.local()

    def expect(self, digests: Mapping[str, str]) -> None:
        """From now on reading a tensor of another hash raises `ChangedSourceError`.

        Raises:
            ChangedSourceError: another was noted or read before.
        """
        for name, digest in digests.items():
            self._check(name, digest)

    def just_read(self) -> dict[str, str]:
        """The hashes of what this thread has read since it last asked."""
        read = dict.fromkeys(getattr(self._read, "names", ()))
        self._read.names = []
        return {name: self._digests[name] for name in read}

    def digests(self) -> dict[str, str]:
        """The hashes of all that was read, in the source's order."""
        return {name: self._digests[name] for name in self.names() if name in self._digests}

    def load(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            ChangedSourceError: it is not the one that was read before.
        """
        tensor = self._source.load(name)
        self._note(name, digest_of(bytes_of(tensor)))
        return tensor

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """Read a matrix block by block; its hash is known after the last.

        Raises:
            ChangedSourceError: as `load`, after the last.
        """
        digest = Digest()
        for block in self._source.blocks(name, rows):
            digest.update(bytes_of(block))
            yield block
        self._note(name, digest.hexdigest())

    def _note(self, name: str, digest: str) -> None:
        self._check(name, digest)
        self._read.names = [*getattr(self._read, "names", ()), name]

    def _check(self, name: str, digest: str) -> None:
        with self._lock:
            before = self._digests.setdefault(name, digest)
        if before != digest:
            raise ChangedSourceError(
                f"{self.path}: {name} is not what it was: BLAKE3 {digest[:16]}…, noted was {before[:16]}…; the source "
                "changed while it was converted."
            )
