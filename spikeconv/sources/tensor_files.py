"""Files of named tensors, safetensors or pickled: shapes and dtypes first, then one tensor at a time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spikeconv.errors import SpikeconvError, UnreadableError
from spikeconv.sources.torch_file import read_tensors

__all__ = ["FLOATS", "TensorFile", "bytes_of", "open_tensor_file", "read_into", "tensor_spans"]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What safetensors calls the dtypes that can be converted."""
MOST_HEADER = 100 << 20
"""Bytes; the format's own limit."""
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

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """Read a matrix, so many rows at a time; each block is only good until the next one is asked for."""


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

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        yield from self._values[name].split(rows)


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
            self._spans = tensor_spans(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise SpikeconvError(
                f"{path} is not a readable safetensors file (truncated or malformed): {error}"
            ) from None

    def load(self, name: str) -> Tensor:
        shape, dtype = self.tensors[name]
        assert isinstance(dtype, torch.dtype), "only floats are converted"
        tensor = torch.empty(shape, dtype=dtype)
        self._read(name, tensor, 0)
        return tensor

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        shape, dtype = self.tensors[name]
        assert isinstance(dtype, torch.dtype), "only floats are converted"
        buffer, at = torch.empty((min(rows, shape[0]), *shape[1:]), dtype=dtype), 0
        for first in range(0, shape[0], rows):
            block = buffer[: shape[0] - first]
            self._read(name, block, at)
            at += block.nbytes
            yield block

    def _read(self, name: str, tensor: Tensor, at: int) -> None:
        """Fill a tensor from a byte of another on."""
        try:
            read_into(self._file.fileno(), bytes_of(tensor), self._spans[name][0] + at)
        except OSError as error:
            raise UnreadableError(f"{self._path}: {name} cannot be read: {error}") from None


def tensor_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Where the tensors of a safetensors file begin and end, in bytes from its beginning.

    Raises:
        OSError, ValueError, KeyError, TypeError, RecursionError: its header cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER, size):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    spans = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if not isinstance(begin, int) or not isinstance(end, int):
                raise ValueError(f"{name} has offsets that are no whole numbers")
            begin, end = 8 + length + begin, 8 + length + end
            if not 8 + length <= begin <= end <= size:
                raise ValueError(f"{name} lies outside the file")
            spans[name] = begin, end
    return spans


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor: of itself, where it is contiguous and on the CPU, else of a copy."""
    array: Any = tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def read_into(file: int, data: memoryview, at: int) -> None:
    """Fill a buffer from an open file, from a byte on.

    Raises:
        OSError: the file ends before, or cannot be read.
    """
    while data:
        read = os.preadv(file, [data[:MOST_READ]], at)
        if not read:
            raise OSError("the file has become shorter")
        data, at = data[read:], at + read
