"""The factors of a balanced checkpoint, d [n] float32 by group of linears, in a file beside it.

Running the model needs none of it where the factors are folded into the weights; comparing it with its source does.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["BALANCE", "read_balance", "write_balance"]

BALANCE = "spikeconv-balance.safetensors"
"""In every balanced checkpoint; its SHA-256 is in the record."""


def write_balance(folder: Path, diagonals: Mapping[str, Tensor], dtype: torch.dtype | None) -> Path:
    """Write the factors, with the dtype that what stays float was converted to (None: each as in the source)."""
    path = folder / BALANCE
    save_file(dict(diagonals), path, metadata={"dtype": "auto" if dtype is None else str(dtype).split(".")[-1]})
    path.chmod(0o644)  # safetensors writes through a private temporary file
    return path


def read_balance(folder: Path) -> tuple[dict[str, Tensor], str] | None:
    """The factors by group, and the dtype's name or "auto"; None where there is no such file.

    Raises:
        SpikeconvError: it is damaged.
    """
    path = folder / BALANCE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {})["dtype"]  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise SpikeconvError(f"{path} is damaged: {error}; convert the model again.") from None
