"""Weights in large pages.

A kernel that reads its weights once is limited by memory, and on 4 KiB pages by the walks through the page tables:
2 MiB pages are read up to one and a half times as fast (`docs/benchmarks/kernels.md`).
"""

import torch
from torch import Tensor

__all__ = ["LargePages"]

PAGE = 2 << 20
REGION = 64 << 20
"""Bytes asked for at once; small weights share a region, and with it their pages."""

LINE = 64
"""Weights begin at cache lines."""


class LargePages:
    """Copies tensors one behind the other into regions of large pages, as far as the system has any."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def place(self, x: Tensor) -> Tensor:
        """A copy of x, contiguous bytes on the CPU."""
        wanted = -(-x.numel() // LINE) * LINE
        if wanted > self._free.numel():
            region = torch.empty(max(wanted, REGION) + PAGE, dtype=torch.uint8)
            torch.ops.spikeconv.cpu_large_pages(region)
            self._free = region[-region.data_ptr() % PAGE :]
        mine, self._free = self._free[: x.numel()], self._free[wanted:]
        return mine.view(x.shape).copy_(x)
