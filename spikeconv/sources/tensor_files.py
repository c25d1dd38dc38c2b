"""Files of named tensors, safetensors or pickled: shapes and dtypes first, then one tensor at a time."""

import json
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spikeconv.errors import SpikeconvError, UnreadableError
from spikeconv.sources.torch_file import read_tensors

__all__ = ["TensorFile", "open_tensor_file"]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What safetensors calls the dtypes that can be converted."""
MOST_READ = 1 << 30
"""Bytes of one read; systems limit them."""


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
    """Tensors are read, not mapped: pages of a mapped file stay in the memory of whoever looked at them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt") as file:  # checks header, offsets and size
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {
                    name: (tuple(s.get_shape()), FLOATS.get(str(s.get_dtype()), str(s.get_dtype())))
                    for name, s in slices.items()
                }
            self._file = path.open("rb", buffering=0)
            length = int.from_bytes(self._file.read(8), "little")
            header = json.loads(self._file.read(length))
            self._begin = {name: 8 + length + header[name]["data_offsets"][0] for name in self.tensors}
        except (SafetensorError, OSError, ValueError) as error:
            raise SpikeconvError(
                f"{path} is not a readable safetensors file (truncated or malformed): {error}"
            ) from None

    def load(self, name: str) -> Tensor:
        shape, dtype = self.tensors[name]
        assert isinstance(dtype, torch.dtype), "only floats are converted"
        tensor = torch.empty(shape, dtype=dtype)
        array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        left, at = memoryview(array), self._begin[name]
        try:
            while left:
                read = os.preadv(self._file.fileno(), [left[:MOST_READ]], at)
                if not read:
                    raise OSError("the file has become shorter")
                left, at = left[read:], at + read
        except OSError as error:
            raise UnreadableError(f"{self._path}: {name} cannot be read: {error}") from None
        return tensor
