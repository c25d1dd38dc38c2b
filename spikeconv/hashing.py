"""SHA-256 of files and of parts of them."""

import hashlib
import os
from pathlib import Path

__all__ = ["sha256_of", "sha256_within"]

CHUNK = 1 << 20
"""Bytes read at a time: they are still in the cache when they are hashed."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_within(file: int, begin: int, end: int) -> str:
    """Hexadecimal SHA-256 of the bytes from one to another of an open file; of fewer, where it ends before."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK, end - begin)))
    while begin < end and (read := os.preadv(file, [buffer[: end - begin]], begin)):
        digest.update(buffer[:read])
        begin += read
    return digest.hexdigest()
