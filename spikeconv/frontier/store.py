"""Where measurements are kept: one JSON file each, named by a hash of everything that they depend on."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikeconv import __version__
from spikeconv.config.base import Settings
from spikeconv.errors import SpikeconvError
from spikeconv.frontier.measure import Measurement
from spikeconv.hashing import sha256_of
from spikeconv.plain import write_json
from spikeconv.sources.base import Source

__all__ = ["RESULTS", "Store", "source_identity"]

RESULTS = ("frontier.csv", "frontier.json", "frontier.svg")
"""What a run leaves beside the measurements."""

DIGITS = 24
"""Of the hash, in hexadecimal: 96 bits."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")


def source_identity(source: Source) -> dict[str, Any]:
    """What makes a source itself: its config, and the SHA-256 of its weight files and of its tokenizer's.

    Args:
        source: one that is a file or a folder.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    tokenizers = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    return {
        "config": source.config,
        "weights": sorted(sha256_of(path) for path in source.weight_files()),
        "tokenizer": {path.name: sha256_of(path) for path in tokenizers},
    }


class _File(Settings):
    """What a file holds: whom it names and describes is for the reader."""

    label: str
    of: dict[str, Any]
    measured: Measurement


class Store:
    """The folder of a frontier.

    Args:
        folder: made at the first write, if it is not there.

    Raises:
        SpikeconvError: there is a file of that name, or the folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise SpikeconvError(f"{folder} is a file; give --output a folder.")
        ours = re.compile(rf"[0-9a-f]{{{DIGITS}}}\.json|\..*\.incomplete-\d+|" + "|".join(map(re.escape, RESULTS)))
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if other := next((name for name in names if not ours.fullmatch(name)), None):
            raise SpikeconvError(f"{folder} holds {other}, which no frontier left there; give --output another folder.")

    def path(self, identity: Mapping[str, Any]) -> Path:
        """The file of what was measured so.

        Args:
            identity: everything that it depends on, as plain values; spikeconv's version comes on top.
        """
        text = json.dumps({**identity, "spikeconv": __version__}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}.json"

    def read(self, identity: Mapping[str, Any]) -> Measurement | None:
        """What was measured so; None if nothing was.

        Raises:
            ValueError, OSError: the file is damaged, or cannot be read.
        """
        path = self.path(identity)
        if not path.exists():
            return None
        return _File.model_validate_json(path.read_bytes()).measured

    def write(self, identity: Mapping[str, Any], label: str, measured: Measurement) -> None:
        """Keep a measurement; its file is whole or not there.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = _File(label=label, of=dict(identity), measured=measured)
        write_json(self.path(identity), file.model_dump(mode="json"))
