"""Whether the header of a GGUF file fits into the file, before a reader that believes its counts counts to 2^60.

magic, version, number of tensors, number of fields; then the fields: key, type, value. A string is its length and its
bytes; an array the type and number of its elements, and these.
"""

import struct
from pathlib import Path
from typing import BinaryIO

__all__ = ["check_counts"]

MAGIC = b"GGUF"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by type."""
STRING, ARRAY = 8, 9
LEAST = SIZES | {STRING: 8, ARRAY: 12}
LEAST_FIELD, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
"""Bytes: with an empty name, the smallest value, no dimension."""
DEEPEST = 4
"""Arrays in arrays; no known file has any."""


def check_counts(path: Path) -> None:
    """Walk through the fields of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: something in it is longer than the file, or of no known type.
    """
    with path.open("rb") as file:
        _Walk(file, path.stat().st_size).header()


class _Walk:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self._order = file, size, "<"

    def header(self) -> None:
        if self._file.read(4) != MAGIC:
            raise ValueError("no GGUF magic at its beginning")
        version = self._file.read(4)
        if len(version) == 4 and version[:2] == b"\0\0":  # of the other byte order
            self._order = ">"
        tensors, fields = self._number("Q"), self._number("Q")
        self._room(tensors * LEAST_TENSOR + fields * LEAST_FIELD, f"{tensors} tensors and {fields} fields")
        for _ in range(fields):
            self._string()
            self._value(self._number("I"), 0)

    def _value(self, kind: int, depth: int) -> None:
        if kind == STRING:
            self._string()
        elif kind != ARRAY:
            self._skip(_least(kind))
        elif depth == DEEPEST:
            raise ValueError(f"arrays in arrays, {depth} deep")
        else:
            inner, count = self._number("I"), self._number("Q")
            self._room(count * _least(inner), f"an array of {count} elements")
            if inner in SIZES:
                self._skip(count * SIZES[inner])
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)

    def _string(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, kind: str) -> int:
        size = struct.calcsize(kind)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("it ends in its header")
        return int(struct.unpack(self._order + kind, data)[0])

    def _skip(self, size: int) -> None:
        self._room(size, f"{size} bytes")
        self._file.seek(size, 1)

    def _room(self, size: int, what: str) -> None:
        if size > self._size - self._file.tell():
            raise ValueError(f"its header announces {what}, more than the file has room for")


def _least(kind: int) -> int:
    if kind not in LEAST:
        raise ValueError(f"a field of the unknown type {kind}")
    return LEAST[kind]
