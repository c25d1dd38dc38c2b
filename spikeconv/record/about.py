"""What a recording is of: checkpoint, text and versions, as plain values."""

import hashlib
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.folder import has_record
from spikeconv.checkpoint.writer import RECORD
from spikeconv.hashing import sha256_of
from spikeconv.record.record import SpikeRecord
from spikeconv.versions import versions

__all__ = ["about", "about_text", "checkpoint_digest"]


def about(model: Any, path: Path, record: SpikeRecord, text: dict[str, Any]) -> dict[str, Any]:
    """`checkpoint` (name, settings, SHA-256), `text` and `versions`.

    Args:
        model: the converted model.
        path: its folder.
        record: what was counted.
        text: what was read, see `about_text`.
    """
    settings = model.config.quantization_config.to_dict()
    return {
        "checkpoint": {"name": path.name, "settings": settings, "sha256": checkpoint_digest(path)},
        "text": {**text, "tokens": record.tokens, "sequences": len(record.sequences)},
        "versions": versions(("torch", "transformers")),
    }


def about_text(content: str, label: str) -> dict[str, Any]:
    """A text's name and SHA-256."""
    return {"what": label, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def checkpoint_digest(path: Path) -> str | None:
    """SHA-256 of a checkpoint's own record, which has the hashes of its files; None without one."""
    return sha256_of(path / RECORD) if has_record(path) else None
