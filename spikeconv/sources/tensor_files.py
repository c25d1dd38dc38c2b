"""Files of named tensors, safetensors or pickled: shapes and dtypes first, then one tensor at a time."""

from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.sources.torch_file import read_tensors

__all__ = ["TensorFile", "open_tensor_file"]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What safetensors calls the dtypes that can be converted."""


class TensorFile(Protocol):
    """An opened file.

    Attributes:
        tensors: shape by name, and dtype (the file's word for one that cannot be converted).
    """

    tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]]

    def load(self, name: str) -> Tensor:
        """Read one tensor."""


def open_tensor_file(path: Path) -> TensorFile:
    """Open a file by its suffix: `.safetensors`, or else what `torch.save` wrote.

    Raises:
        SpikeconvError: it is damaged, or a pickle of more than tensors.
    """
    return _Safetensors(path) if path.suffix == ".safetensors" else _Pickled(path)


class _Pickled:
    def __init__(self, path: Path) -> None:
        self._values = read_tensors(path)
        floats = set(FLOATS.values())
        self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {
            name: (tuple(value.shape), value.dtype if value.dtype in floats else str(value.dtype))
            for name, value in self._values.items()
        }

    def load(self, name: str) -> Tensor:
        return self._values[name].clone(memory_format=torch.contiguous_format)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = safe_open(path, framework="pt")
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 (not a dict)
            self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {
                name: (tuple(s.get_shape()), FLOATS.get(str(s.get_dtype()), str(s.get_dtype())))
                for name, s in slices.items()
            }
        except (SafetensorError, OSError) as error:
            raise SpikeconvError(
                f"{path} is not a readable safetensors file (truncated or malformed): {error}"
            ) from None

    def load(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise SpikeconvError(f"{self._path}: {name} cannot be read: {error}") from None
        return tensor
