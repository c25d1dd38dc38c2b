"""What every source of weights offers; each is opened and checked as a whole before anything is written."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.sources.own_card import own_card

__all__ = ["Source"]


class Source(ABC):
    """A checkpoint to convert.

    Attributes:
        path: the directory or file it is read from.
        config: the parsed `config.json`, or what the file says in its place.
        deletes: whether a file that is released is gone, and has to be fetched again if it is read once more.
        arch: what the user said that it holds, where it does not tell.
        assumption: what it was taken for because nobody said, in a sentence.
    """

    path: Path
    config: dict[str, Any]
    deletes: bool = False
    arch: str | None = None
    assumption: str | None = None

    @abstractmethod
    def names(self) -> list[str]:
        """Every tensor in file order: as in `model.state_dict()`, or by the file's own name if it has no such name."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor as it will be read; the file's own word for it if it is not a float type."""

    def types(self) -> list[str]:
        """What its weights are in its files, the most frequent first."""
        return [str(each).removeprefix("torch.") for each, _ in Counter(map(self.dtype, self.names())).most_common()]

    @abstractmethod
    def load(self, name: str) -> Tensor:
        """Read one tensor."""

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """The rows of a matrix, so many at a time; each block is only good until the next one is asked for."""
        yield from self.load(name).split(rows)

    @abstractmethod
    def weight_files(self) -> list[Path]:
        """The files that hold weights."""

    def states(self) -> dict[str, dict[str, Any]]:
        """What tells whether a file of weights is still the same, by its name, as values of JSON; nothing is read."""
        return {path.name: _state(path) for path in self.weight_files()}

    def file_of(self, name: str) -> str | None:
        """The file that holds a tensor and that `release` can do without; None where there is none."""
        return None

    def release(self, file: str) -> None:  # noqa: B027 (most sources keep theirs)
        """All tensors of a file have been read: it may go."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            SpikeconvError: there is none, or it cannot be read.
        """

    @abstractmethod
    def copy_companions(self, target: Path) -> None:
        """Put every file that is not weights or index (tokenizer, chat template, …) into `target`."""

    def origin(self) -> str | None:
        """Where it can be found again: an absolute path, or None for what is no file."""
        return str(self.path.absolute())

    def card(self) -> dict[str, Any]:
        """What its own model card says: licence and languages, see `own_card`."""
        return own_card(self.path) if self.path.is_dir() else {}

    def unread(self) -> dict[str, str]:
        """Tensors of the file that no model reads, by the file's name, with the reason; `names` leaves them out."""
        return {}

    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(path.stat().st_size for path in self.weight_files())


def _state(path: Path) -> dict[str, Any]:
    state, real = path.stat(), path.resolve()
    if real.parent.name == "blobs":  # in the hub's cache a file is called by its hash
        return {"bytes": state.st_size, "blob": real.name}
    return {"bytes": state.st_size, "changed": state.st_mtime_ns}
