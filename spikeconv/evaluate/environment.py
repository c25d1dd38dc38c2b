"""What this machine has: for `spikeconv doctor` and for the head of a benchmark table."""

import os
import platform
from typing import Any

import torch

from spikeconv.cache import cache_dir
from spikeconv.loading import find_device
from spikeconv.nn.linear import default_execution
from spikeconv.ops import build, native
from spikeconv.versions import versions
from spikeconv.wheels import OLMO_EVAL, SMOLLM2

__all__ = ["device_fallbacks", "examine", "runs_with"]

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "lm-eval", "datasets", "gguf")


def examine() -> dict[str, dict[str, Any]]:
    """Versions, device, back end and cache, as plain values."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": versions(PACKAGES),
        "device": {
            "gpu": gpu or "none seen by torch",
            "cpu": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
            "threads": torch.get_num_threads(),
            "used": "cuda" if gpu else "cpu",
        },
        "backend": _backend(),
        "cache": {
            "folder": str(cache_dir()),
            SMOLLM2.name: "fetched" if SMOLLM2.is_cached() else "fetched on first use",
            OLMO_EVAL.name: "fetched" if OLMO_EVAL.is_cached() else "fetched on first use",
        },
    }


def runs_with(device: str, execution: str | None) -> dict[str, str]:
    """Device, execution and kernels of a model that is loaded with these options of a command line.

    Raises:
        SpikeconvError: there is no such device.
    """
    place = find_device(device)
    kernels = native.load(place.type).name
    return {"device": str(place), "execution": execution or default_execution(), "kernels": kernels}


def device_fallbacks() -> list[str]:
    """A sentence for each kind of device of this machine whose native kernels are missing."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    missing = {device: backend.why for device in devices if not (backend := native.load(device)).is_native}
    return [f"On {device} the reference stands in for the native kernels: {why}." for device, why in missing.items()]


def _backend() -> dict[str, Any]:
    """What computes on each kind of device, and why."""
    report: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        backend = native.load(device)
        report[device] = f"{backend.name} ({backend.why})"
    if kernels := native.cpu_kernels():
        report["instructions"] = f"{native.use_cpu_kernels('auto')} (available: {', '.join(kernels)})"
    report["compiler"] = build.compiler() or "none found"
    report["nvcc"] = build.cuda_compiler() or "none found"
    report["execution"] = default_execution()
    report["chosen by"] = "SPIKECONV_EXEC" if "SPIKECONV_EXEC" in os.environ else "default"
    return report
