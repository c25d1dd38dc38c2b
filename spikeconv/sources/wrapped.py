"""A source that is another one, but for what a subclass says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.sources.base import Source

__all__ = ["WrappedSource"]


class WrappedSource(Source):
    """Passes everything on.

    Args:
        source: the other.
    """

    def __init__(self, source: Source) -> None:
        self.path, self.config, self.deletes, self._source = source.path, source.config, source.deletes, source

    def names(self) -> list[str]:
        """Its tensor names."""
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of its tensor."""
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of its tensor."""
        return self._source.dtype(name)

    def load(self, name: str) -> Tensor:
        """Read its tensor."""
        return self._source.load(name)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """Read its matrix block by block."""
        return self._source.blocks(name, rows)

    def weight_files(self) -> list[Path]:
        """Its files."""
        return self._source.weight_files()

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of its files."""
        return self._source.states()

    def file_of(self, name: str) -> str | None:
        """The file of its tensor."""
        return self._source.file_of(name)

    def release(self, file: str) -> None:
        """Let go of its file."""
        self._source.release(file)

    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._source.tokenizer()

    def copy_companions(self, target: Path) -> None:
        """Copy its companions."""
        self._source.copy_companions(target)

    def origin(self) -> str | None:
        """Where it can be found again."""
        return self._source.origin()

    def card(self) -> dict[str, Any]:
        """What its card says."""
        return self._source.card()

    def unread(self) -> dict[str, str]:
        """What no model reads of it."""
        return self._source.unread()

    def size(self) -> int:
        """Its bytes."""
        return self._source.size()
