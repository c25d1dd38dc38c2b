"""What a recording is of: checkpoint, text and versions, as plain values."""

from pathlib import Path
from typing import Any

from spikeconv.checkpoint.folder import checkpoint_digest
from spikeconv.checkpoint.origin import base_of
from spikeconv.hashing import text_digest
from spikeconv.record.record import SpikeRecord
from spikeconv.versions import versions

__all__ = ["about", "about_text"]


def about(model: Any, path: Path, record: SpikeRecord, text: dict[str, Any]) -> dict[str, Any]:
    """`checkpoint` (name, settings, SHA-256, base), `text` and `versions`.

    Args:
        model: the converted model.
        path: its folder.
        record: what was counted.
        text: what was read, see `about_text`.
    """
    settings = model.config.quantization_config.to_dict()
    checkpoint = {"name": path.name, "settings": settings, "sha256": checkpoint_digest(path), "base": base_of(path)}
    return {
        "checkpoint": checkpoint,
        "text": {**text, "tokens": record.tokens, "sequences": len(record.sequences)},
        "versions": versions(("torch", "transformers")),
    }


def about_text(content: str, label: str) -> dict[str, Any]:
    """A text's name and SHA-256."""
    return {"what": label, "sha256": text_digest(content)}
