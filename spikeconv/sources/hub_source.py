"""A model of the hub as a source whose shards come when they are read, the next one while one is being read.

Everything is checked before the first byte of a weight is here: names, shapes and dtypes come from the shards' headers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource
from spikeconv.sources.hub import HubModel
from spikeconv.sources.tensor_files import FLOATS, TensorFile, open_tensor_file

__all__ = ["HubSource"]


class HubSource(HfSource):
    """A model of the hub.

    Args:
        model: what is known of it.
        trust_remote_code: whether Python code in it may run.
        delete: remove a shard that was fetched when it is released; never one that was here before.
        note: told, in a sentence, of what is fetched.

    Raises:
        SpikeconvError: as `HfSource`, or a header cannot be had.
    """

    def __init__(
        self,
        model: HubModel,
        *,
        trust_remote_code: bool = False,
        delete: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._states, self._shards, self.deletes = model.states, dict[str, _Shard](), delete

        def open_shard(name: str) -> TensorFile:
            shard = self._shards[name] = _Shard(model, name, delete, note)
            return shard

        absent = [name for name in model.states if not (model.folder / name).is_file()]
        coming = {name: partial(open_shard, name) for name in absent}
        super().__init__(model.folder, trust_remote_code=trust_remote_code, coming=coming)
        shards = list(self._shards.values())
        for shard, following in pairwise(shards):
            shard.following = following

    def states(self) -> dict[str, dict[str, Any]]:
        """Bytes and hash of its files, as the hub tells."""
        return {path.name: self._states[path.name] for path in self.weight_files()}

    def size(self) -> int:
        """Bytes of its files."""
        return sum(state["bytes"] for state in self.states().values())

    def file_of(self, name: str) -> str | None:
        """The shard of a tensor, if it was not here before."""
        file = self._file_of[name]
        return file.name if isinstance(file, _Shard) else None

    def release(self, file: str) -> None:
        """Remove a shard, if that is wanted."""
        self._shards[file].release()


class _Shard:
    """A file of tensors that comes when one of them is read."""

    def __init__(self, model: HubModel, name: str, delete: bool, note: Callable[[str], None]) -> None:
        self._model, self.name, self._delete, self._note = model, name, delete, note
        self.tensors: dict[str, tuple[tuple[int, ...], Any]] = {
            tensor: (shape, FLOATS.get(dtype, dtype)) for tensor, (shape, dtype) in model.header(name).items()
        }
        self.following: _Shard | None = None
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._is_over = False
        self._file: TensorFile | None = None
        self._vectors: dict[str, Tensor] = {}

    def load(self, name: str) -> Tensor:
        if name in self._vectors:
            return self._vectors[name].clone()
        return self._here().load(name)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        yield from self._here().blocks(name, rows)

    def release(self) -> None:
        with self._lock:
            self._is_over = True
            if not self._delete or self._path is None:
                return
            blob, self._file = self._path.resolve(), None
            self._path.unlink(missing_ok=True)
            if blob.parent.name == "blobs":
                blob.unlink(missing_ok=True)
            self._path = None

    def _here(self) -> TensorFile:
        with self._lock:
            opened = self._fetch()
        if self.following is not None:
            threading.Thread(target=self.following.fetch_ahead, daemon=True).start()
            self.following = None
        return opened

    def fetch_ahead(self) -> None:
        with self._lock, suppress(Exception):  # who really reads it is told
            if not self._is_over:  # it may begin late, when all is read and deleted
                self._fetch()

    def _fetch(self) -> TensorFile:
        """The file, fetched if it is not here; the lock is held."""
        if self._file is not None:
            return self._file
        self._note(f"Fetching {self.name}, {self._model.states[self.name]['bytes'] / 1e9:.2f} GB.")
        self._path = self._model.fetch(self.name)
        opened = open_tensor_file(self._path)
        if opened.tensors != self.tensors:
            raise SpikeconvError(f"{self._path} holds other tensors than its header on the hub says.")
        if self._delete:  # what other shards' tensors may ask for again when this one is gone: γ and biases
            small = (
                name
                for name, (shape, dtype) in self.tensors.items()
                if len(shape) < 2 and isinstance(dtype, torch.dtype)
            )
            self._vectors = {name: opened.load(name) for name in small}
        self._file = opened
        return opened
