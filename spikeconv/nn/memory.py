"""Weights in large pages, and no longer in those of the file that they were read from.

A kernel that reads its weights once is limited by memory, and on 4 KiB pages by the walks through the page tables:
2 MiB pages are read up to one and a half times as fast (`docs/benchmarks/kernels.md`).
"""

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["LargePages", "MappedFiles", "large_empty"]

PAGE = 2 << 20
REGION = 64 << 20
"""Bytes asked for at once; small weights share a region, and with it their pages."""

LINE = 64
"""Weights begin at cache lines."""


def large_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor on the CPU in pages of its own, large ones as far as the system has any."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return _own(_region(size)[:size]).view(dtype).view(shape)


def _region(size: int) -> Tensor:
    """Bytes that begin at a large page, size of them or more."""
    region = torch.empty(size + PAGE, dtype=torch.uint8)
    torch.ops.spikeconv.cpu_large_pages(region)
    return region[-region.data_ptr() % PAGE :]


def _own(part: Tensor) -> Tensor:
    """The same bytes as a storage of their own: a pickle of a tensor holds its whole storage, and would the region."""
    return torch.from_numpy(part.numpy())


class LargePages:
    """Copies tensors one behind the other into regions of large pages, as far as the system has any."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)  # of the last region

    def place(self, x: Tensor) -> Tensor:
        """A copy of x, contiguous bytes on the CPU."""
        wanted = -(-x.numel() // LINE) * LINE
        if wanted > self._free.numel():
            self._free = _region(max(wanted, REGION))
        mine, self._free = self._free[: x.numel()], self._free[wanted:]
        return _own(mine).view(x.shape).copy_(x)


class MappedFiles:
    """The weight files that are mapped into this process: what was read of them counts as its memory until the last
    tensor in them is gone, which for tied embeddings is never."""

    def __init__(self) -> None:
        try:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # no Linux
            maps = []
        spans = (line.split(" ", 1)[0].split("-") for line in maps if line.endswith(".safetensors"))
        self._spans = [(int(begin, 16), int(end, 16)) for begin, end in spans]

    def let_go(self, x: Tensor) -> None:
        """Give back the pages of a packed weight that lies in one of the files, and that nothing needs any more."""
        begin, end = x.data_ptr(), x.data_ptr() + x.nbytes
        if x.is_contiguous() and any(low <= begin and end <= high for low, high in self._spans):
            torch.ops.spikeconv.cpu_let_go(x)
