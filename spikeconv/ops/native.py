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
    "float_head",
    "load",
    "note_hash",
    "plan_group",
    "plan_model",
    "plan_recurrent",
    "ready",
    "run_group",
    "run_model",
    "run_recurrent",
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


def plan_model(
    sizes: list[int],
    numbers: list[float],
    tensors: list[Tensor | None],
    groups: list[Tensor],
    head_norms: list[Tensor],
    rows: list[float],
    rotation: list[Tensor],
    inverse: list[Tensor],
) -> Tensor:
    """A whole decoder as one tensor for `run_model`; CPU only. It points to the tensors given, which must outlive it.

    Args:
        sizes: layers, hidden, heads, key heads, head_dim, intermediate, vocabulary, positions; then each layer's window
            (keys that a token sees; 0: all).
        numbers: scaling of scores, ε of the last norm, ε of the norms of queries and keys.
        tensors: embedding (float32 or bfloat16), cos, sin, the last norm; the head's weight, scale and bias or None, as
            in `float_head`.
        groups: plans of q|k|v, output, gate|up, down of each layer.
        head_norms: of queries and keys of each layer, or none.
        rows: `RowSettings.table()` of keys and values; empty where they are floats.
        rotation, inverse: of a head of them, as `rotate` takes them; the inverse's signs come behind it.
    """
    plan: Tensor = torch.ops.spikeconv.plan_model(sizes, numbers, tensors, groups, head_norms, rows, rotation, inverse)
    return plan


def run_model(
    plan: Tensor,
    tokens: Tensor,
    sequences: Tensor,
    keys: Tensor,
    values: Tensor,
    wanted: Tensor,
    wants_logits: bool,
    seconds: Tensor,
    layers: tuple[int, int],
    stream: Tensor,
    trace: Tensor,
) -> Tensor:
    """Logits float32 [R, vocabulary] of a forward, or what the head reads [R, hidden].

    Args:
        plan: of `plan_model`.
        tokens: int64 [T], of all sequences, one after the other.
        sequences: int64 [S, 8]: first token, tokens, slot, place of the first key, first key that there is, position,
            first key that is not shared with others, rows of the slot that lie before it and are not this one's.
        keys, values: float32 or bfloat16 [layers, slots, key heads, capacity, head_dim], or uint8 [..., row_bytes];
            written to.
        wanted: int64 [R], rows of `tokens`; none where the last layer is not run.
        wants_logits: whether logits are wanted.
        seconds: float64 [5], what encoding, products, attention, head and the rest took is added.
        layers: the first that is run, and the one behind the last.
        stream: float32 [T, hidden], what goes into the first layer (unless that is the model's), replaced by what
            comes out of the last; may be empty where all layers are run.
        trace: float32 [layers, T, width] to be filled with what was computed on the way, or empty.
    """
    tokens = tokens.contiguous()  # a column of a batch has gaps
    logits: Tensor = torch.ops.spikeconv.run_model.default(
        plan, tokens, sequences, keys, values, wanted, wants_logits, seconds, *layers, stream, trace
    )
    return logits


def plan_recurrent(
    sizes: list[int],
    epsilons: list[float],
    tensors: list[Tensor | None],
    norms: list[Tensor],
    groups: list[Tensor],
    vectors: list[Tensor | None],
) -> Tensor:
    """A whole RWKV-4 or -6 as one tensor for `run_recurrent`; CPU only. It points to the tensors given.

    Args:
        sizes: layers, hidden, intermediate, vocabulary; heads and the ranks of what mixes and decay are computed of, or
            0 three times for RWKV-4.
        epsilons: ε of the norms in front of the first layer and of the head, then of the two of each layer (RWKV-6: and
            that of its heads).
        tensors: embedding (float32 or bfloat16); the head's weight, scale and bias or None, as in `float_head`.
        norms: weight and bias of each of these norms.
        groups: plans of key, value, receptance (RWKV-6: gate) and output of time mixing, key, receptance and value of
            channel mixing, of each layer.
        vectors: of each of these what mixes its input with the token before, its center and its balance, or None;
            behind those of a layer w and u of the recurrence, [hidden]. RWKV-6 has ln -ln w of no token's own in place
            of w, then the first mix [hidden], matrices [5 · rank, hidden] and [5, hidden, rank], five mixes
            [5, hidden], matrices [rank, hidden] and [hidden, rank] of the decay.
    """
    plan: Tensor = torch.ops.spikeconv.plan_recurrent(sizes, epsilons, tensors, norms, groups, vectors)
    return plan


def run_recurrent(
    plan: Tensor,
    tokens: Tensor,
    texts: Tensor,
    state: list[Tensor],
    wanted: Tensor,
    wants_logits: bool,
    seconds: Tensor,
    layers: tuple[int, int],
    stream: Tensor,
    trace: Tensor,
) -> Tensor:
    """`run_model` of a plan of `plan_recurrent`.

    Args:
        texts: int64 [S, 3]: first token, tokens, slot.
        state: five tensors float32 [slots, hidden, layers], written to; channels lie side by side, slot behind slot.
            RWKV-6: two of these, and [layers, slots, heads, head_size, head_size].
        plan, tokens, wanted, wants_logits, seconds, layers, stream, trace: as of `run_model`.
    """
    tokens = tokens.contiguous()
    logits: Tensor = torch.ops.spikeconv.run_recurrent.default(
        plan, tokens, texts, state, wanted, wants_logits, seconds, *layers, stream, trace
    )
    return logits


def float_head(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias in float32.

    Args:
        x: float32 [..., n] on the CPU.
        weight: contiguous float32, bfloat16 or int8 [outputs, n].
        scale: beside int8 float32 [outputs, n / 32], what 32 weights are multiplied with; else None.
        bias: float32 [outputs] or None.

    Returns:
        float32 [..., outputs].
    """
    y: Tensor = torch.ops.spikeconv.float_head.default(x, weight, scale, bias)
    return y


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
