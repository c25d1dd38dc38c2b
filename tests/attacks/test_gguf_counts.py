"""Attack: a GGUF header that announces more than the file holds: the usual reader counts to 2^60, one by one."""

import struct
from pathlib import Path

import pytest

from spikeconv.errors import SpikeconvError
from spikeconv.sources.resolve import open_source


def test_counts(tmp_path: Path) -> None:
    many, path = 1 << 60, tmp_path / "model.gguf"
    key = struct.pack("<Q", 1) + b"k"
    for tensors, fields, rest, words in (
        (many, 0, b"", "announces 1152921504606846976 tensors"),
        (0, many, b"", "and 1152921504606846976 fields"),
        (0, 1, struct.pack("<Q", many), "announces 1152921504606846976 bytes"),
        (0, 1, key + struct.pack("<IQ", 8, many), "announces 1152921504606846976 bytes"),
        (0, 1, key + struct.pack("<IIQ", 9, 4, many), "an array of 1152921504606846976 elements"),
        (0, 1, key + struct.pack("<IIQ", 9, 8, many), "an array of 1152921504606846976 elements"),
        (0, 1, key + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9, "arrays in arrays"),
        (0, 1, key + struct.pack("<II", 77, 0), "unknown type 77"),
    ):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest + bytes(24))
        with pytest.raises(SpikeconvError, match=words):
            open_source(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<I", 9))
    with pytest.raises(SpikeconvError, match="ends in its header"):
        open_source(path)
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, many))
    with pytest.raises(SpikeconvError, match="and 1152921504606846976 fields"):
        open_source(path)
