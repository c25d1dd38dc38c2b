"""Files that `torch.save` wrote: pickled dicts of tensors, mapped into memory.

Unpickling can run code; here torch's reader of plain tensors is used, which refuses a file with anything else in it.
"""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.untrusted import kind_of

__all__ = ["read_tensors"]

ZIP = b"PK\x03\x04"
SHARED = 3
"""As often as this, on average, may tensors (tied ones) share the bytes of a file."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; mapped into memory if it is a zip archive, as torch writes since version 1.6.

    Raises:
        SpikeconvError: the file is damaged, or holds anything but named tensors.
    """
    if (kind := kind_of(path.stat().st_mode)) is not None:
        raise SpikeconvError(f"{path} is {kind}; expected a regular file.")
    try:
        with path.open("rb") as file:
            mmap = file.read(len(ZIP)) == ZIP
        with warnings.catch_warnings(action="ignore"):  # of what then fails
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # the reader fails in many ways on a damaged file
        # An unknown operand is no pickle; whatever else is refused is a pickle of more than tensors.
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error):
            raise SpikeconvError(
                f"{path} contains more than tensors (Python objects, which can run code) and was not loaded."
            ) from None
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise SpikeconvError(f"{path} is not a readable torch file (truncated or malformed): {reason}.") from None
    if not isinstance(value, dict):
        raise SpikeconvError(f"{path} holds no model: it is a {type(value).__name__}, not a dict of tensors.")
    for key, entry in value.items():
        if not (isinstance(key, str) and isinstance(entry, Tensor)):
            raise SpikeconvError(f"{path} holds no model: it has {key}, which is no named tensor.")
        if entry.layout != torch.strided or entry.is_meta or entry.is_quantized:
            kind = "meta" if entry.is_meta else "quantized" if entry.is_quantized else str(entry.layout)
            raise SpikeconvError(f"{path}: {key} is a {kind.removeprefix('torch.')} tensor; expected a plain one.")
        if entry.nbytes > entry.untyped_storage().nbytes():
            raise SpikeconvError(
                f"{path}: {key} has {entry.nbytes:,} bytes, of which the file holds "
                f"{entry.untyped_storage().nbytes():,}; expected a plain tensor."
            )
    total, size = sum(entry.nbytes for entry in value.values()), path.stat().st_size
    if total > SHARED * size:
        raise SpikeconvError(f"{path} has {size:,} bytes, but its tensors {total:,}; expected plain tensors.")
    return {key: entry.detach() for key, entry in value.items()}
