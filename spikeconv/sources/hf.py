"""Where weights come from: a Hugging Face directory, read tensor by tensor (one file: `gguf_source`, `pth_source`).

A source is opened and checked as a whole first (headers, index, shapes, dtypes), so that a bad file is found before
anything is written; tensors are then read one at a time.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer

from spikeconv.errors import SpikeconvError
from spikeconv.sources.torch_file import read_tensors

__all__ = ["INDEX", "HfSource", "Source"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED = "pytorch_model.bin"
INDEXES = (".safetensors.index.json", ".bin.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", *INDEXES)
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class Source(ABC):
    """A checkpoint to convert.

    Attributes:
        path: the directory or file it is read from.
        config: the parsed `config.json`.
    """

    path: Path
    config: dict[str, Any]

    @abstractmethod
    def names(self) -> list[str]:
        """Tensor names, as in `model.state_dict()`, in file order."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor as it will be read; the file's own word for it if it is not a float type."""

    @abstractmethod
    def load(self, name: str) -> Tensor:
        """Read one tensor."""

    @abstractmethod
    def weight_files(self) -> list[Path]:
        """The files that hold weights."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @abstractmethod
    def copy_companions(self, target: Path) -> None:
        """Put every file that is not weights or index (tokenizer, chat template, …) into `target`."""

    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(path.stat().st_size for path in self.weight_files())


class HfSource(Source):
    """A directory with `config.json` and safetensors files, or else `pytorch_model.bin` as older ones have it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self._index = self._find_index()
        self._files = self._find_files()
        self._headers = {name: _open(file) for name, file in self._files.items()}
        self._where = self._locate()

    def _find_index(self) -> Path | None:
        """The file that says which shard holds which tensor, if there are shards; safetensors go first."""
        if (self.path / INDEX).is_file():
            return self.path / INDEX
        pickled = self.path / PICKLED_INDEX
        return pickled if pickled.is_file() and not any(self.path.glob("*.safetensors")) else None

    def _find_files(self) -> dict[str, Path]:
        if self._index is not None:
            weight_map = read_json(self._index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise SpikeconvError(f"{self._index} has no weight_map; expected tensor names mapped to shards.")
            shards = {shard: self.path / shard for shard in dict.fromkeys(map(str, weight_map.values()))}
        elif (self.path / SINGLE).is_file():  # others beside it hold the same weights under other names
            shards = {SINGLE: self.path / SINGLE}
        else:
            found = sorted(self.path.glob("*.safetensors")) or list(self.path.glob(PICKLED))
            shards = {path.name: path for path in found}
        for shard, path in shards.items():
            if Path(shard).name != shard:
                raise SpikeconvError(f"{self._index} names the shard {shard!r}, outside the directory; not read.")
            if not path.is_file():
                raise SpikeconvError(f"{self._index} names the shard {shard}, which is missing.")
        if not shards:
            raise SpikeconvError(f"{self.path} holds no .safetensors file; expected a Hugging Face checkpoint.")
        return shards

    def _locate(self) -> dict[str, str]:
        where = {name: shard for shard, header in self._headers.items() for name in header.tensors}
        if self._index is not None:
            for name, shard in read_json(self._index)["weight_map"].items():
                if name not in self._headers[shard].tensors:
                    raise SpikeconvError(f"{self._index} places {name} in {shard}, which does not hold it.")
        return where

    def names(self) -> list[str]:
        """Tensor names in file order."""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self._headers[self._where[name]].tensors[name][0]

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor, from the header."""
        return self._headers[self._where[name]].tensors[name][1]

    def load(self, name: str) -> Tensor:
        """Read one tensor; only its pages are touched."""
        return self._headers[self._where[name]].load(name)

    def weight_files(self) -> list[Path]:
        """The safetensors or `.bin` files."""
        return list(self._files.values())

    def tokenizer(self) -> Any:
        """The tokenizer of the directory."""
        return AutoTokenizer.from_pretrained(self.path)

    def copy_companions(self, target: Path) -> None:
        """Copy tokenizer, chat template, generation config, remote code and everything else that is not weights."""
        weights = shutil.ignore_patterns(*(f"*{suffix}" for suffix in WEIGHT_SUFFIXES))
        for path in self.path.iterdir():
            if path.name.startswith(".") or path.name == "config.json" or path.name.endswith(WEIGHT_SUFFIXES):
                continue
            if path.is_dir():
                shutil.copytree(path, target / path.name, ignore=weights)
            else:
                shutil.copyfile(path, target / path.name)


class _File(Protocol):
    """An opened file of tensors; maps names to shape, and dtype or what the file calls it."""

    tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]]

    def load(self, name: str) -> Tensor: ...


def _open(path: Path) -> _File:
    return _Safetensors(path) if path.suffix == ".safetensors" else _Pickled(path)


class _Pickled:
    def __init__(self, path: Path) -> None:
        self._values = read_tensors(path)
        self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {
            name: (tuple(value.shape), value.dtype if value.is_floating_point() else str(value.dtype))
            for name, value in self._values.items()
        }

    def load(self, name: str) -> Tensor:
        return self._values[name].clone(memory_format=torch.contiguous_format)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 (not a dict)
            self.tensors: dict[str, tuple[tuple[int, ...], torch.dtype | str]] = {
                name: (tuple(s.get_shape()), SAFETENSORS_DTYPES.get(str(s.get_dtype()), str(s.get_dtype())))
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
            raise SpikeconvError(f"{self.path}: {name} cannot be read: {error}") from None
        return tensor


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        SpikeconvError: the file is missing or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpikeconvError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise SpikeconvError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise SpikeconvError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return dict(value)
