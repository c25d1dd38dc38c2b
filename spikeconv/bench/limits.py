"""What this machine can do at most: the measure of every kernel."""

from dataclasses import dataclass

import torch

from spikeconv.bench.timing import median_seconds
from spikeconv.errors import SpikeconvError
from spikeconv.ops.native import load, use_cpu_kernels

__all__ = ["CACHE_BYTES", "DRAM_BYTES", "Limits", "measure_limits"]

ROUNDS = 100_000
CACHE_BYTES = 4 << 20
"""Fits a shared cache; what is read again and again at this size comes from there."""
DRAM_BYTES = 256 << 20
"""Larger than the caches of the machines we know."""


@dataclass(frozen=True)
class Limits:
    """Measured limits of the processor with torch's threads.

    Attributes:
        kernels: instruction set in use.
        threads: threads of torch.
        macs: products a second of the product instruction on registers, all threads.
        cache: bytes a second read from the shared cache.
        dram: bytes a second read from memory.
    """

    kernels: str
    threads: int
    macs: float
    cache: float
    dram: float


def measure_limits(seconds: float = 0.5) -> Limits:
    """Measure the processor.

    Raises:
        SpikeconvError: there are no native kernels to measure with.
    """
    backend = load("cpu")
    if not backend.is_native:
        raise SpikeconvError(f"The native kernels are not there ({backend.why}), so there is nothing to measure.")
    kernels = torch.ops.spikeconv
    cached, large = (torch.ones(size, dtype=torch.uint8) for size in (CACHE_BYTES, DRAM_BYTES))
    taken = median_seconds(
        {
            "macs": lambda: kernels.cpu_peak(ROUNDS),
            "cache": lambda: kernels.cpu_read(cached),
            "dram": lambda: kernels.cpu_read(large),
        },
        seconds,
    )
    return Limits(
        kernels=use_cpu_kernels("auto"),
        threads=torch.get_num_threads(),
        macs=kernels.cpu_peak(ROUNDS) / taken["macs"],
        cache=CACHE_BYTES / taken["cache"],
        dram=DRAM_BYTES / taken["dram"],
    )
