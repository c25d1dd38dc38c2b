"""What this machine can do at most: the measure of every kernel."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch

from spikeconv.bench.timing import median_seconds
from spikeconv.errors import SpikeconvError
from spikeconv.nn.memory import LargePages
from spikeconv.ops.native import load, use_cpu_kernels

__all__ = ["CACHE_BYTES", "DRAM_BYTES", "Limits", "measure_limits"]

ROUNDS = 500_000
"""Of product instructions in a probe: a millisecond."""
CACHE_BYTES = 8 << 20
"""Fits a shared cache, but not those of the cores; what is read again and again at this size comes from there."""
CACHE_TIMES = 16
DRAM_BYTES = 640 << 20
"""Twice the largest cache of a processor that we know."""
DRAM_PARTS = 10
"""In which it is read, one a probe: the shorter a probe, the likelier that nothing else ran meanwhile."""
MOST = 1.05
"""The share of a limit above which the limit must be wrong."""
GPU_INT8_SIZE = 8192
"""Order of the square int8 product whose rate stands for a GPU's."""


@dataclass(frozen=True)
class Limits:
    """Measured limits of a device.

    Attributes:
        device: "cpu" or "cuda".
        kernels: instruction set in use, or the GPU's name.
        threads: threads of torch, or the GPU's multiprocessors.
        macs: products a second: of the product instruction on registers by all threads; of a large `torch._int_mm` on a
            GPU.
        cache: bytes a second read from the shared cache.
        dram: bytes a second read from memory.
    """

    device: str
    kernels: str
    threads: int
    macs: float
    cache: float
    dram: float

    def share(self, limit: str, rate: float) -> float:
        """The share that a rate (a second) is of a limit, "macs" or "dram".

        Raises:
            SpikeconvError: it is more than all of it by over 5 %, so the limit was measured wrong.
        """
        share: float = rate / getattr(self, limit)
        if share > MOST:
            raise SpikeconvError(
                f"A kernel reached {share:.0%} of the limit {limit} ({getattr(self, limit) / 1e9:.0f} G/s), so the"
                " limit was measured wrong: the machine was busy, or its caches are larger than we know of."
                " Nothing of this run can be trusted; run it again when the machine is quiet."
            )
        return share

    def __str__(self) -> str:
        units = "threads" if self.device == "cpu" else "multiprocessors"
        rates = f"{self.macs / 1e9:.0f} GMAC/s, cache {self.cache / 1e9:.0f} GB/s, memory {self.dram / 1e9:.0f} GB/s"
        return f"{self.kernels}, {self.threads} {units}: {rates}"


def measure_limits(seconds: float = 0.5, device: str = "cpu") -> Limits:
    """Measure a device.

    A limit is the best of many probes, each of some milliseconds: what a busy machine takes away from some of them is
    not the limit.

    Args:
        seconds: about how long each limit is probed.
        device: "cpu" or "cuda".

    Raises:
        SpikeconvError: there are no native kernels to measure with, or there are fewer cores than threads.
    """
    backend = load(torch.device(device).type)
    if not backend.is_native:
        raise SpikeconvError(f"The native kernels are not there ({backend.why}), so there is nothing to measure.")
    return _gpu(seconds, device) if torch.device(device).type == "cuda" else _cpu(seconds)


def _cpu(seconds: float) -> Limits:
    kernels, threads = torch.ops.spikeconv, torch.get_num_threads()
    cores = kernels.cpu_peak(ROUNDS)[1]
    if cores < threads:
        raise SpikeconvError(
            f"{threads} threads share {cores} {'core' if cores == 1 else 'cores'}, so what is measured is no limit of"
            f" the machine: set OMP_NUM_THREADS={cores}, or let the process use more cores."
        )
    cached, large = (LargePages().place(torch.ones(size, dtype=torch.uint8)) for size in (CACHE_BYTES, DRAM_BYTES))
    parts = cycle(large.chunk(DRAM_PARTS))
    return Limits(
        device="cpu",
        kernels=use_cpu_kernels("auto"),
        threads=threads,
        macs=max(_probed(lambda: kernels.cpu_peak(ROUNDS)[0], seconds)),
        cache=max(_probed(lambda: kernels.cpu_read(cached, CACHE_TIMES), seconds)),
        dram=max(_probed(lambda: kernels.cpu_read(next(parts), 1), seconds)),
    )


def _probed(probe: Callable[[], float], seconds: float) -> list[float]:
    """What a probe gives in some seconds of its own: another one in between would take its cache away."""
    rates: list[float] = []
    start = time.perf_counter()
    while len(rates) < 5 or time.perf_counter() - start < seconds:
        rates.append(probe())
    return rates


def _gpu(seconds: float, device: str) -> Limits:
    cached, large = (torch.ones(size // 8, dtype=torch.int64, device=device) for size in (CACHE_BYTES, DRAM_BYTES))
    a = torch.ones(GPU_INT8_SIZE, GPU_INT8_SIZE, dtype=torch.int8, device=device)
    runs: dict[str, Callable[[], object]] = {
        "macs": lambda: torch._int_mm(a, a.mT),
        "cache": cached.sum,
        "dram": large.sum,
    }
    taken = median_seconds(runs, seconds, device)
    properties = torch.cuda.get_device_properties(device)
    return Limits(
        device=device,
        kernels=properties.name,
        threads=properties.multi_processor_count,
        macs=GPU_INT8_SIZE**3 / taken["macs"],
        cache=CACHE_BYTES / taken["cache"],
        dram=DRAM_BYTES / taken["dram"],
    )
