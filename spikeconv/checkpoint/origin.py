"""What a checkpoint was made from: a name that can be published, and whether two were made from the same."""

import hashlib
import json
from pathlib import Path, PurePath
from typing import Any

from spikeconv.checkpoint.folder import has_record, read_record
from spikeconv.sources.presets import model_presets

__all__ = ["base_digest", "base_of", "hub_id", "source_name"]


def source_name(path: str | None) -> str:
    """A source's hub id or last name: cards are published, and where it lay on a disk is nobody's business."""
    if path is None:
        return "a model in memory"
    return hub_id(path) or PurePath(path).name or path


def hub_id(path: str) -> str | None:
    """The id of a model in the hub's cache folder, or of a preset's file from the package index; else None."""
    parts = PurePath(path).parts
    if (folder := next((part for part in parts if part.startswith("models--")), None)) is not None:
        return folder.removeprefix("models--").replace("--", "/")
    for preset in model_presets().values():
        if preset.file is not None and f"/{preset.wheel}-" in path and path.endswith(f"/{preset.file}"):
            return preset.hub
    return None


def base_digest(record: dict[str, Any]) -> str | None:
    """SHA-256 of the hashes of a source's tensors, from the record of what was made of it; None where it has none."""
    tensors = record["source"].get("tensors")
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest() if tensors else None


def base_of(path: Path) -> dict[str, str | None] | None:
    """`name` and `sha256` of what a checkpoint was made from; None without a record."""
    if not has_record(path):
        return None
    record = read_record(path)
    return {"name": source_name(record["source"]["path"]), "sha256": base_digest(record)}
