"""Where every tensor of a checkpoint will lie, from names, dtypes and shapes alone: shards of safetensors.

A shard is 8 bytes of header length, a header in JSON, and the tensors. Wide dtypes come first, so that every tensor is
aligned; shards are named as transformers names them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from spikeconv.errors import SpikeconvError

__all__ = ["DEFAULT_SHARD_SIZE", "Layout", "Place", "TensorSpec", "parse_size"]

DEFAULT_SHARD_SIZE = "5GB"

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class TensorSpec(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Place(NamedTuple):
    """Where a tensor lies: its shard, and the first byte in that file."""

    spec: TensorSpec
    shard: str
    begin: int


@dataclass(frozen=True)
class Layout:
    """The files of a checkpoint.

    Attributes:
        places: by tensor name.
        headers: what each shard begins with, by file name.
        sizes: bytes of each shard.
    """

    places: dict[str, Place]
    headers: dict[str, bytes]
    sizes: dict[str, int]

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], shard_bytes: int) -> "Layout":
        """Tensors fill one shard after the other, in order; one that is larger than a shard has one for itself."""
        shards: list[list[TensorSpec]] = [[]]
        held = 0
        for spec in specs:
            if shards[-1] and held + spec.size > shard_bytes:
                shards.append([])
                held = 0
            shards[-1].append(spec)
            held += spec.size
        places: dict[str, Place] = {}
        headers, sizes = {}, {}
        for index, shard in enumerate(shards):
            several = len(shards) > 1
            file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors" if several else "model.safetensors"
            ordered = sorted(shard, key=lambda spec: (-spec.dtype.itemsize, spec.name))
            headers[file] = _header(ordered)
            at = len(headers[file])
            for spec in ordered:
                places[spec.name] = Place(spec, file, at)
                at += spec.size
            sizes[file] = at
        return cls(places, headers, sizes)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(place.spec.size for place in self.places.values())

    @property
    def weight_map(self) -> dict[str, str]:
        """The shard of every tensor, as an index has it."""
        return {name: place.shard for name, place in self.places.items()}


def _header(specs: list[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for spec in specs:
        entries[spec.name] = {
            "dtype": DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.size],
        }
        at += spec.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as 5GB, 500MB or 2GiB.

    Raises:
        SpikeconvError: it is none, or 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", text, re.IGNORECASE)
    unit = match and UNITS.get(match[2].upper())
    if not match or unit is None or (size := int(float(match[1]) * unit)) < 1:
        raise SpikeconvError(f"{option} is {text[:40]!r}; expected a size such as 5GB, 500MB or 2GiB.")
    return size
