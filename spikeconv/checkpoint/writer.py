"""Where converted tensors go: safetensors shards in a scratch directory that becomes the checkpoint at the end.

Until then the output is as it was, so an interrupted run never leaves a plausible half.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from spikeconv.checkpoint.scratch import Scratch
from spikeconv.plain import write_json
from spikeconv.sources.weight_files import INDEX

__all__ = ["RECORD", "Sink"]

RECORD = "spikeconv.json"
"""Every converted checkpoint holds this record of how it was made."""
SHARD_BYTES = 2 << 30


class Sink(Scratch):
    """Collects a converted checkpoint; `commit` publishes it."""

    def __init__(self, target: Path, *, force: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
        super().__init__(target, RECORD, force=force)
        self._shard_bytes = shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; a full shard is written out."""
        pending = sum(t.nbytes for t in self._pending.values())
        if self._pending and pending + tensor.nbytes > self._shard_bytes:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._bytes += tensor.nbytes

    def commit(self, config: dict[str, Any]) -> int:
        """Write the index and `config.json`, publish the directory, and return the bytes of its tensors."""
        self._flush()
        names = self._name_shards()
        if len(names) > 1:
            weight_map = {
                tensor: shard for shard, tensors in zip(names, self._shards, strict=True) for tensor in tensors
            }
            write_json(self.scratch / INDEX, {"metadata": {"total_size": self._bytes}, "weight_map": weight_map})
        write_json(self.scratch / "config.json", config)
        self.publish()
        return self._bytes

    def finish_shards(self) -> list[Path]:
        """Write what is pending and give the shards their final names, so that they can be hashed before `commit`."""
        self._flush()
        return [self.scratch / name for name in self._name_shards()]

    def _flush(self) -> None:
        if self._pending:
            path = self._shard_path(len(self._shards))
            save_file(self._pending, path, metadata={"format": "pt"})
            path.chmod(0o644)  # safetensors writes through a private temporary file
            self._shards.append(list(self._pending))
            self._pending = {}

    def _shard_path(self, index: int) -> Path:
        return self.scratch / f"shard-{index}.safetensors"

    def _name_shards(self) -> list[str]:
        count = len(self._shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        names = names if count > 1 else ["model.safetensors"] * count
        for index, name in enumerate(names):
            if self._shard_path(index).exists():
                self._shard_path(index).rename(self.scratch / name)
        return names
