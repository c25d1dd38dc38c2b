"""Finds, builds and loads the native kernels; without them the reference serves.

Looked for in the installed package, then among the libraries built on this machine before (`$SPIKECONV_CACHE`), which
are named by a digest of their sources; else built, if there is a compiler. Loading happens when a model is built or
converted, never at import. `SPIKECONV_NATIVE=0` keeps the reference.
"""

import os
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from spikeconv.cache import cache_dir
from spikeconv.ops import build

__all__ = ["Backend", "cpu_kernels", "load", "use_cpu_kernels"]


class Backend(NamedTuple):
    """What computes on one kind of device: "native" or "reference", and why."""

    name: str
    why: str

    @property
    def is_native(self) -> bool:
        """Whether compiled kernels run."""
        return self.name == "native"


@cache
def load(device: str = "cpu") -> Backend:
    """Load the native kernels for "cpu" or "cuda", building them at the first use on a machine with a compiler."""
    if os.environ.get("SPIKECONV_NATIVE", "1") == "0":
        return Backend("reference", "SPIKECONV_NATIVE=0")
    if device == "cuda" and not torch.cuda.is_available():
        return Backend("reference", "torch sees no GPU")
    if device not in ("cpu", "cuda"):
        return Backend("reference", f"there are no native kernels for {device}")
    library = _find(device)
    try:
        if library is None:
            library = _cached(device)
            print(f"spikeconv: building the native {device} kernels (once, under a minute)", file=sys.stderr)
            _build(device, library)
        torch.ops.load_library(library)
    except (build.BuildError, OSError, RuntimeError) as error:
        return Backend("reference", str(error).strip().splitlines()[0])
    return Backend("native", f"{library.name}, {'installed' if _installed(device) == library else 'built here'}")


def cpu_kernels() -> list[str]:
    """Instruction sets that this processor can run, best first; empty without native kernels."""
    return str(torch.ops.spikeconv.cpu_kernels()).split() if load().is_native else []


def use_cpu_kernels(name: str) -> str:
    """Choose an instruction set ("auto": the best) for this process; returns its name."""
    return str(torch.ops.spikeconv.use_cpu_kernels(name))


def _installed(device: str) -> Path:
    return Path(__file__).parents[1] / "_native" / f"libspikeconv_{device}.so"


def _cached(device: str) -> Path:
    key = build.digest(device) + (
        "" if device == "cpu" else f"-sm{''.join(map(str, torch.cuda.get_device_capability()))}"
    )
    return cache_dir() / "kernels" / key / f"libspikeconv_{device}.so"


def _find(device: str) -> Path | None:
    return next((path for path in (_installed(device), _cached(device)) if path.is_file()), None)


def _build(device: str, library: Path) -> None:
    if device == "cpu":
        build.build_cpu(library)
    else:
        major, minor = torch.cuda.get_device_capability()
        build.build_cuda(library, [f"{major}{minor}"])
