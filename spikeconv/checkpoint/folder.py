"""A converted checkpoint's folder: which one is meant, its record, and what is noted in it."""

import os
from pathlib import Path
from typing import Any

from spikeconv.cache import cache_dir
from spikeconv.checkpoint.writer import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.plain import write_json
from spikeconv.sources.json_file import read_json

__all__ = ["has_record", "read_record", "remember", "resolve_checkpoint", "save_zero_shares", "saw_text", "source_path"]


def remember(checkpoint: Path) -> None:
    """Make a checkpoint the default of later commands.

    Raises:
        OSError: the cache folder cannot be written.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "last").write_bytes(os.fsencode(checkpoint.absolute()))


def resolve_checkpoint(path: Path | None) -> Path:
    """The checkpoint meant: `path`, or the last converted one.

    Raises:
        SpikeconvError: there is none, or it is not a converted checkpoint.
    """
    if path is None:
        last = cache_dir() / "last"
        name = last.read_bytes() if last.is_file() else b""
        if not name:
            raise SpikeconvError("Nothing has been converted yet; run `spikeconv convert` or name a checkpoint.")
        path = Path(os.fsdecode(name))
    if not has_record(path) and not _is_converted(path):
        raise SpikeconvError(
            f"{path} is not a converted checkpoint (no {RECORD} in it); run `spikeconv convert` first."
        )
    return path


def has_record(path: Path) -> bool:
    """Whether a checkpoint has its record; `save_pretrained` of a loaded one, and `push_to_hub`, leave it out."""
    return (path / RECORD).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """The `spikeconv.json` of a checkpoint.

    Raises:
        SpikeconvError: it is missing or damaged.
    """
    if not has_record(path):
        raise SpikeconvError(
            f"{path} is a converted checkpoint without its record {RECORD} (save_pretrained leaves it out), which says "
            f"what it was made from; copy that file from the folder that `spikeconv convert` wrote."
        )
    record = read_json(path / RECORD)
    for key in ("source", "config", "files"):
        if not isinstance(record.get(key), dict):
            raise SpikeconvError(f"{path / RECORD} is damaged: its {key!r} is no JSON object; convert the model again.")
    if "path" not in record["source"]:
        raise SpikeconvError(f"{path / RECORD} is damaged: its 'source' has no path; convert the model again.")
    return record


def saw_text(path: Path, digest: str) -> bool:
    """Whether a checkpoint was calibrated on the text with this SHA-256, as far as its record tells."""
    if not has_record(path):
        return False
    calibration = read_record(path).get("calibration")
    return isinstance(calibration, dict) and calibration.get("text_sha256") == digest


def source_path(record: dict[str, Any]) -> Path | None:
    """Where the source of a checkpoint was when it was converted; None for a model in memory."""
    path = record["source"]["path"]
    return None if path is None else Path(path)


def save_zero_shares(path: Path, shares: dict[str, float]) -> None:
    """Note the measured share of zero counts of every linear in a checkpoint's `config.json`.

    Raises:
        OSError: the file cannot be written; it is then as it was.
    """
    config = read_json(path / "config.json")
    config["quantization_config"]["zero_share"] = {name: round(share, 4) for name, share in shares.items()}
    write_json(path / "config.json", config)


def _is_converted(path: Path) -> bool:
    if not (path / "config.json").is_file():
        return False
    quantization = read_json(path / "config.json").get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "spikeconv"
