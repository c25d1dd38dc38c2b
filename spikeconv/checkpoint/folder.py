"""A converted checkpoint's folder: which one is meant, its record, and what is noted in it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from spikeconv.cache import cache_dir, make_private
from spikeconv.checkpoint.format import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import sha256_of
from spikeconv.plain import write_json
from spikeconv.sources.json_file import read_json
from spikeconv.sources.weight_files import find_weight_files

__all__ = [
    "checkpoint_digest",
    "has_record",
    "notes_dir",
    "read_record",
    "remember",
    "remember_own",
    "resolve_checkpoint",
    "save_zero_shares",
    "saw_text",
    "source_path",
]


def remember(checkpoint: Path) -> None:
    """Make a checkpoint the default of later commands.

    Raises:
        OSError: the cache folder cannot be written.
    """
    make_private(cache_dir())
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
        if not path.exists():
            raise SpikeconvError(f"The last converted checkpoint, {path}, is gone; name another, or convert again.")
    if not has_record(path) and not _is_converted(path):
        raise SpikeconvError(
            f"{path} is not a converted checkpoint (no {RECORD} in it); run `spikeconv convert` first."
        )
    return path


def has_record(path: Path) -> bool:
    """Whether a checkpoint has its record; `save_pretrained` of a loaded one, and `push_to_hub`, leave it out."""
    return (path / RECORD).is_file()


def checkpoint_digest(path: Path) -> str | None:
    """SHA-256 of what a checkpoint computes: its settings, and the hashes of its tensors that its record has.

    A copy has the same, and so does a checkpoint that was made again with the same bytes. None without a record.

    Raises:
        SpikeconvError: its record or its configuration is damaged.
    """
    if not has_record(path):
        return None
    record, quantization = read_record(path), read_json(path / "config.json").get("quantization_config")
    settings = dict(quantization) if isinstance(quantization, dict) else {}
    settings.pop("zero_share", None)  # measured, and changes nothing
    content = [settings, *(record.get(name) for name in ("tensors", "headers", "files"))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


def remember_own(checkpoint: Path) -> None:
    """Note that a checkpoint was made here, so that what its record says of this machine can be believed.

    Raises:
        OSError: the cache folder cannot be written.
    """
    note = _own(checkpoint)
    make_private(note.parent)
    note.write_bytes(b"")


def source_path(checkpoint: Path, named: Path | None = None) -> Path | None:
    """What a checkpoint was converted from; None for a model in memory.

    A record is somebody else's file, unless the conversion was done here: then the path in it is not followed, and the
    source has to be named.

    Args:
        checkpoint: its folder.
        named: what the user says it is.

    Raises:
        SpikeconvError: it is not known, or not there.
    """
    path = read_record(checkpoint)["source"]["path"]
    if path is None and named is None:
        return None
    if named is None and not _own(checkpoint).is_file():
        raise SpikeconvError(
            f"{checkpoint} was not converted here, so the path in its record, {path!r}, is not followed: name the "
            "source with --source."
        )
    found = named or Path(path)
    if not found.exists():
        raise SpikeconvError(f"The source of {checkpoint}, {found}, is not there; name it with --source.")
    if named is None and found.is_dir() and (found / "config.json").is_file():
        try:
            find_weight_files(found, read_json(found / "config.json"))
        except SpikeconvError as error:  # --delete-source-shards, for one
            reason = str(error).rstrip(".")
            raise SpikeconvError(
                f"The source of {checkpoint} has lost its weights ({reason}); name it with --source, which fetches a "
                "model of the hub."
            ) from None
    return found


def source_arch(checkpoint: Path) -> str | None:
    """What the user said that the source of a checkpoint holds, where it does not tell."""
    arch = read_record(checkpoint)["source"].get("arch")
    return arch if isinstance(arch, str) else None


def _own(checkpoint: Path) -> Path:
    """The note that a checkpoint with this record was made here."""
    return notes_dir() / sha256_of(checkpoint / RECORD)


def notes_dir() -> Path:
    """Where it is noted which checkpoints were made here."""
    return cache_dir() / "made-here"


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
