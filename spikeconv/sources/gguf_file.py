"""A GGUF file, whole or split in parts, opened for reading: its metadata, and its tensors by name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from spikeconv.errors import SpikeconvError
from spikeconv.sources.gguf_header import check_counts

__all__ = ["GgufFile", "open_gguf"]

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""What llama.cpp calls the parts of a split file."""


@dataclass(frozen=True)
class GgufFile:
    """An opened file.

    Attributes:
        path: the file, or the first part.
        parts: all parts in order.
        tensors: `gguf.ReaderTensor` by name, in file order.
        fields: values of the metadata by key, read when asked for.
    """

    path: Path
    parts: tuple[Path, ...]
    tensors: dict[str, Any]
    fields: dict[str, Any]

    def value(self, key: str) -> Any:
        """The value of a key; None if the file does not have it.

        Raises:
            SpikeconvError: it cannot be read.
        """
        field = self.fields.get(key)
        try:
            return None if field is None else field.contents()
        except Exception as error:  # the reader trusts its file
            raise _unreadable(self.path, error) from None

    def number(self, key: str) -> int | None:
        """The value of a key that holds one whole number; None if the file does not have it.

        Raises:
            SpikeconvError: it holds something else.
        """
        value = self.value(key)
        if value is not None and not isinstance(value, int):
            raise SpikeconvError(f"{self.path}: {key} is {value!r}; expected one whole number.")
        return value


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file; of a split one the first part, with all others beside it.

    Raises:
        SpikeconvError: it is damaged, or a part of a split one that is not the first, or lacks the others beside it.
    """
    first = _read(path)
    count = GgufFile(path, (path,), {}, dict(first.fields)).number("split.count") or 1
    parts = (path,) if count == 1 else _parts(path, count)
    readers = [first, *(_read(part) for part in parts[1:])]
    tensors: dict[str, Any] = {}
    for part, reader in zip(parts, readers, strict=True):
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise SpikeconvError(f"{part} holds {tensor.name}, which an earlier part of the split file holds too.")
            tensors[tensor.name] = tensor
    return GgufFile(path, parts, tensors, dict(first.fields))


def _parts(path: Path, count: int) -> tuple[Path, ...]:
    name = PART.fullmatch(path.name)
    if name is None or int(name["count"]) != count:
        raise SpikeconvError(
            f"{path} is one of {count} parts of a split file, but not called NAME-00001-of-{count:05d}.gguf, so that "
            "the others cannot be found; give it its name again."
        )
    parts = tuple(path.with_name(f"{name['stem']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count))
    if path != parts[0]:
        raise SpikeconvError(f"{path} is part {name['number']} of a split file; give the first one, {parts[0].name}.")
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise SpikeconvError(f"{path} is part of a split file, of which {', '.join(missing[:3])} is missing beside it.")
    return parts


def _read(path: Path) -> GGUFReader:
    try:
        check_counts(path)
        return GGUFReader(path)
    except Exception as error:  # the reader trusts its file and fails in many ways on a bad one
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> SpikeconvError:
    return SpikeconvError(f"{path} is not a readable GGUF file: {type(error).__name__}: {error}")
