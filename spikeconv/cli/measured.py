"""What `--json` says of a number beside the number, under `measured`: of what it is, on what, and with what."""

from pathlib import Path
from typing import Any

from spikeconv.versions import versions

__all__ = ["converted", "installed", "measured", "running", "text_of"]


def running(
    device: str, dtype: str, execution: str | None, head_bits: int | None, cache_dtype: str | None
) -> dict[str, Any]:
    """What a command line lets a checkpoint run with, as `load_checkpoint` takes it, and `measured`: both the same."""
    numbers = {"head_bits": head_bits, "cache_dtype": cache_dtype}
    return {"device": device, "dtype": dtype, "execution": execution, **numbers}


def measured(
    checkpoint: Path, *, device: str = "auto", dtype: str = "auto", execution: str | None = None, **what: Any
) -> dict[str, Any]:
    """`{"measured": …}` of a command that runs a checkpoint.

    Args:
        checkpoint: its folder.
        device: as of the command line.
        dtype: as of the command line.
        execution: as of the command line.
        what: it was run on (`text`, `tasks`, `prompt`, …), and all else that decides the numbers.
    """
    from spikeconv.evaluate.environment import runs_with

    with_what = {**runs_with(device, execution), "dtype": dtype, "versions": installed()}
    return {"measured": {**converted(checkpoint), **what, **with_what}}


def converted(checkpoint: Path) -> dict[str, Any]:
    """Folder, SHA-256 of the record, and settings of a checkpoint."""
    from spikeconv.checkpoint.folder import checkpoint_digest
    from spikeconv.sources.json_file import read_json

    settings = read_json(checkpoint / "config.json").get("quantization_config")
    return {"checkpoint": str(checkpoint), "sha256": checkpoint_digest(checkpoint), "settings": settings}


def text_of(content: str, label: str) -> dict[str, Any]:
    """A text's name and SHA-256, as a recording has them."""
    from spikeconv.record.about import about_text

    return about_text(content, label)


def installed() -> dict[str, str]:
    """Versions of what computes."""
    return versions(("torch", "transformers"))
