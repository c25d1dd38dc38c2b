"""Finds, builds and loads the native kernels; without them the reference serves.

Looked for in the installed package, then among the libraries built on this machine before (`$SPIKECONV_CACHE`), which
are named by a digest of their sources; else built, if there is a compiler. The ops load the library of a device at
their first call there (`library`), never at import. `SPIKECONV_NATIVE=0` keeps the reference.
"""

import fcntl
import os
import sys
import threading
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv.cache import cache_dir, make_private, remove_leftovers, who_else, writable_dir
from spikeconv.errors import SpikeconvWarning
from spikeconv.hashing import sha256_of
from spikeconv.ops import build

__all__ = [
    "Backend",
    "cpu_kernels",
    "load",
    "note_hash",
    "plan_group",
    "ready",
    "run_group",
    "use_cpu_kernels",
]

SWITCHED_OFF = "SPIKECONV_NATIVE=0"

_loading = threading.RLock()
"""Two threads must not build, or load, one library at once."""


class Backend(NamedTuple):
    """What computes on one kind of device: "native" or "reference", why, and the library of the native kernels."""

    name: str
    why: str
    path: Path | None = None

    @property
    def is_native(self) -> bool:
        """Whether compiled kernels run."""
        return self.name == "native"


def ready(device: str) -> Backend:
    """What computes on a kind of device, loaded; the first fallback to the reference warns, unless it was asked for."""
    backend = load(device)
    if not backend.is_native and backend.why != SWITCHED_OFF:
        _warn(device, backend.why)
    return backend


def load(device: str) -> Backend:
    """Load the native kernels for "cpu" or "cuda", building them at the first use on a machine with a compiler."""
    with _loading:
        return _load(device)


@cache
def _load(device: str) -> Backend:
    if os.environ.get("SPIKECONV_NATIVE", "1") == "0":
        return Backend("reference", SWITCHED_OFF)
    if device == "cuda" and not torch.cuda.is_available():
        return Backend("reference", "torch sees no GPU")
    if device not in ("cpu", "cuda"):
        return Backend("reference", f"there are no native kernels for {device}")
    library = _find(device)
    try:
        if library is None:
            library = _cached(device, writable_dir())
        if library != _installed(device) and not _is_good(library):
            _build(device, library)
        torch.ops.load_library(library)
    except (build.BuildError, OSError, RuntimeError) as error:
        return Backend("reference", str(error).strip().splitlines()[0])
    where = "installed" if _installed(device) == library else "built here"
    return Backend("native", f"{library.name}, {where}", library)


def cpu_kernels() -> list[str]:
    """Instruction sets that this processor can run, best first; empty without native kernels."""
    return str(torch.ops.spikeconv.cpu_kernels()).split() if load("cpu").is_native else []


def use_cpu_kernels(name: str) -> str:
    """Choose an instruction set ("auto": the best) for this process; returns its name."""
    return str(torch.ops.spikeconv.use_cpu_kernels(name))


def plan_group(
    in_features: int,
    rotation: list[Tensor],
    norm_weight: Tensor | None,
    threshold: Tensor | None,
    encode: list[float],
    operands: list[Tensor | None],
    products: list[float],
) -> Tensor:
    """An encoder and the linears behind it as one tensor for `run_group`; CPU only.

    The plan points to the tensors given, which must be contiguous, with weights in tiles or columns, and outlive it.

    Args:
        in_features: inputs of the linears.
        rotation, norm_weight, threshold: those of `encode`.
        encode: its settings.
        operands: those of `linears`.
        products: its settings.
    """
    plan: Tensor = torch.ops.spikeconv.plan_group(
        in_features, rotation, norm_weight, threshold, encode, operands, products
    )
    return plan


def run_group(x: Tensor, plan: Tensor) -> list[Tensor]:
    """`encode` and `linears` in one call: the outputs [..., out] of every linear for x [..., in], in the dtype of x."""
    outputs: list[Tensor] = torch.ops.spikeconv.run_group.default(x, plan)
    return outputs


@cache
def _warn(device: str, why: str) -> None:
    warnings.warn(
        f"The native {device} kernels cannot be used: {why}. The reference gives the same bits, many times slower; "
        f"{SWITCHED_OFF} asks for it without this warning.",
        SpikeconvWarning,
        stacklevel=2,
    )


def _installed(device: str) -> Path:
    return Path(__file__).parents[1] / "_native" / f"libspikeconv_{device}.so"


def _cached(device: str, folder: Path | None = None) -> Path:
    key = build.digest(device) + (
        "" if device == "cpu" else f"-sm{''.join(map(str, torch.cuda.get_device_capability()))}"
    )
    return (folder or cache_dir()) / "kernels" / key / f"libspikeconv_{device}.so"


def _find(device: str) -> Path | None:
    if _installed(device).is_file():
        return _installed(device)
    return path if _is_good(path := _cached(device)) else None


def _is_good(library: Path) -> bool:
    """Whether a library is there as it was built, and by us: loading it runs what is in it."""
    try:
        return _noted(library).read_text() == sha256_of(library) and who_else(library) is None
    except OSError:
        return False


def _noted(library: Path) -> Path:
    """The file beside a library that has its SHA-256."""
    return library.with_suffix(".sha256")


def _build(device: str, library: Path) -> None:
    """Build a library; of several processes that need it at once one does, the others wait for it."""
    make_private(library.parent)
    with open(library.with_suffix(".lock"), "w") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_good(library):
            _build_alone(device, library)


def _build_alone(device: str, library: Path) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"spikeconv: building the native {device} kernels (once, under two minutes)", file=sys.stderr)
    remove_leftovers(library.parent, build.BUILDING)
    if device == "cpu":
        build.build_cpu(library)
    else:
        major, minor = torch.cuda.get_device_capability()
        build.build_cuda(library, [f"{major}{minor}"])
    note_hash(library)


def note_hash(library: Path) -> None:
    """Say beside a library that was just built which bytes it has; without that it is not loaded."""
    _noted(library).write_text(sha256_of(library))
