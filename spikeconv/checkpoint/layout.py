"""Where every tensor of a checkpoint will lie, from names, dtypes and shapes alone: shards of safetensors.

A shard is 8 bytes of header length, a header in JSON, and the tensors. Wide dtypes come first, so that every tensor is
aligned; shards are named as transformers names them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from spikeconv.sources.tensor_files import FLOATS

__all__ = ["Layout", "Place", "TensorSpec"]

DTYPES = {dtype: name for name, dtype in FLOATS.items()} | {torch.int32: "I32", torch.uint8: "U8"}
"""What safetensors calls the dtypes that are written."""


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
