"""The files of weights that a layout describes, open for tensors to be written at their places, from any thread."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spikeconv.checkpoint.layout import Layout
from spikeconv.hashing import digest_of, digest_within
from spikeconv.sources.tensor_files import bytes_of, read_into

__all__ = ["ShardFiles"]

OPEN = os.O_NOFOLLOW | os.O_CLOEXEC
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""From file systems that cannot reserve."""


class ShardFiles:
    """The shards of a layout, in a folder.

    Args:
        layout: what lies where.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: dict[str, int] = {}

    def create(self, folder: Path, *, reserve: bool = True) -> None:
        """Open the files, give them their sizes and headers, and (`reserve`) their places on the disk.

        Raises:
            OSError: the disk is full, say.
        """
        for name, header in self._layout.headers.items():
            opened = os.open(folder / name, os.O_RDWR | os.O_CREAT | OPEN, 0o644)
            self._files[name] = opened
            os.ftruncate(opened, self._layout.sizes[name])
            if reserve:
                _reserve(opened, self._layout.sizes[name])
            _write(opened, memoryview(header), 0)

    def share(self, folder: Path) -> None:
        """Open files that others, perhaps on other hosts, write too.

        For writing only and to the disk at once: what the journal says of bytes is then so for all, and Linux' NFS
        sends no more of a page than was written to it (`nfs_can_extend_write`), so that what others wrote beside it
        stays.

        Raises:
            OSError: a file is gone.
        """
        for name in self._layout.sizes:
            self._files[name] = os.open(folder / name, os.O_WRONLY | os.O_DSYNC | OPEN)

    def write(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Write tensors, by name, at their places; returns the hash of each.

        Raises:
            OSError: the disk is full, say.
        """
        digests = {}
        for name, tensor in tensors.items():
            place = self._layout.places[name]
            if (tensor.dtype, tuple(tensor.shape)) != (place.spec.dtype, place.spec.shape):
                raise AssertionError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, laid out was {place.spec}")
            data = bytes_of(tensor)
            digests[name] = digest_of(data)
            _write(self._files[place.shard], data, place.begin)
        return digests

    def read(self, name: str) -> Tensor:
        """A tensor that was written."""
        place = self._layout.places[name]
        tensor = torch.empty(place.spec.shape, dtype=place.spec.dtype)
        read_into(self._files[place.shard], bytes_of(tensor), place.begin)
        return tensor

    def holds(self, digests: Mapping[str, str]) -> bool:
        """Whether the bytes of tensors have these hashes; not of none."""
        return bool(digests) and all(
            name in self._layout.places and self._digest(name) == digest for name, digest in digests.items()
        )

    def close(self) -> None:
        """Close all."""
        for opened in self._files.values():
            os.close(opened)
        self._files = {}

    def _digest(self, name: str) -> str:
        place = self._layout.places[name]
        return digest_within(self._files[place.shard], place.begin, place.begin + place.spec.size)


def _write(file: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


def _reserve(file: int, size: int) -> None:
    """Give a file its place on the disk where that can be had: a full one shows at once."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
