"""Where converted tensors go: safetensors shards in a scratch directory that becomes the checkpoint in one rename.

Until then the output does not exist (or is the old one), so an interrupted run never leaves a plausible half.
"""

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors.torch import save_file
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.sources.weight_files import INDEX

__all__ = ["RECORD", "Scratch", "Sink", "check_target", "write_json"]

RECORD = "spikeconv.json"
"""Every converted checkpoint holds this record of how it was made."""
SHARD_BYTES = 2 << 30


class Scratch:
    """Context manager of a scratch directory; `publish` makes it the target, leaving without it removes every trace.

    Args:
        target: the directory to create.
        record: the file by which a directory that may be replaced is known.
        force: replace such a directory.

    Raises:
        SpikeconvError: the target is in the way (see `check_target`), or its folder cannot be written.
    """

    def __init__(self, target: Path, record: str = RECORD, *, force: bool = False) -> None:
        self.target = target.absolute()
        self.scratch = self.target.with_name(f".{self.target.name}.incomplete-{os.getpid()}")
        self._record, self._force = record, force

    def __enter__(self) -> Self:
        check_target(self.target, self._force, self._record)
        try:
            self.scratch.mkdir(parents=True)
        except OSError as error:
            raise SpikeconvError(f"Cannot write to {self.target.parent}: {error.strerror}.") from None
        return self

    def publish(self) -> None:
        """Put the directory in its place, the old one out of it."""
        old = self.target.with_name(f"{self.scratch.name}-old")
        if self.target.exists():
            self.target.rename(old)
        try:
            self.scratch.rename(self.target)
        except BaseException:  # Ctrl-C too
            if old.exists():
                old.rename(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)


class Sink(Scratch):
    """Collects a converted checkpoint; `commit` publishes it."""

    def __init__(self, target: Path, *, force: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
        super().__init__(target, force=force)
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


def check_target(target: Path, force: bool, record: str = RECORD) -> None:
    """Refuse an output that would overwrite something.

    Raises:
        SpikeconvError: it is a file, or a non-empty directory and `force` is not set or it holds no `record`.
    """
    if target.exists() and not target.is_dir():
        raise SpikeconvError(f"{target} is a file; expected a directory to create.")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise SpikeconvError(
            f"{target} exists and is not empty; choose another --output or pass --force to replace it."
        )
    if target.is_dir() and any(target.iterdir()) and not (target / record).is_file():
        raise SpikeconvError(f"{target} holds no {record}; --force replaces only what does. Choose another --output.")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    scratch = path.with_name(f".{path.name}.incomplete-{os.getpid()}")
    try:
        scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
