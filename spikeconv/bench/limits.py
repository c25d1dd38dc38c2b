"""What this machine can do at most: the measure of every kernel."""

from collections.abc import Callable
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

    def __str__(self) -> str:
        units = "threads" if self.device == "cpu" else "multiprocessors"
        rates = f"{self.macs / 1e9:.0f} GMAC/s, cache {self.cache / 1e9:.0f} GB/s, memory {self.dram / 1e9:.0f} GB/s"
        return f"{self.kernels}, {self.threads} {units}: {rates}"


def measure_limits(seconds: float = 0.5, device: str = "cpu") -> Limits:
    """Measure a device.

    Raises:
        SpikeconvError: there are no native kernels to measure with.
    """
    backend = load(torch.device(device).type)
    if not backend.is_native:
        raise SpikeconvError(f"The native kernels are not there ({backend.why}), so there is nothing to measure.")
    return _gpu(seconds, device) if torch.device(device).type == "cuda" else _cpu(seconds)


def _cpu(seconds: float) -> Limits:
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
        device="cpu",
        kernels=use_cpu_kernels("auto"),
        threads=torch.get_num_threads(),
        macs=kernels.cpu_peak(ROUNDS) / taken["macs"],
        cache=CACHE_BYTES / taken["cache"],
        dram=DRAM_BYTES / taken["dram"],
    )


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
