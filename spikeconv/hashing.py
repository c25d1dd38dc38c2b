"""Hashes: SHA-256 of files that others name by it, BLAKE3 of tensors, of which a conversion reads and writes gigabytes.

SHA-256 of the weights would take as long as rotating and rounding them; BLAKE3, also cryptographic, takes a third.
"""

import hashlib
import os
from pathlib import Path

from blake3 import blake3

__all__ = ["HASH", "Digest", "digest_of", "digest_within", "sha256_of", "text_digest"]

HASH = "blake3"
"""What records call the hash of tensors."""
Digest = blake3
CHUNK = 1 << 20
"""Bytes read at a time: they are still in the cache when they are hashed."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    """What is remembered of a whole text: the SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def digest_of(data: bytes | memoryview) -> str:
    """Hexadecimal BLAKE3 of bytes."""
    return Digest(data).hexdigest()


def digest_within(file: int, begin: int, end: int) -> str:
    """Hexadecimal BLAKE3 of the bytes from one to another of an open file; of fewer, where it ends before."""
    digest, buffer = Digest(), memoryview(bytearray(min(CHUNK, end - begin)))
    while begin < end and (read := os.preadv(file, [buffer[: end - begin]], begin)):
        digest.update(buffer[:read])
        begin += read
    return digest.hexdigest()
