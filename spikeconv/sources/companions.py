"""The files that go with the weights: tokenizer, chat template, generation config, remote code, licence."""

import re
import shutil
from pathlib import Path

__all__ = ["copy_companions"]

WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|gguf|h5|msgpack|onnx)|.*\.(safetensors|bin)\.index(\.\w+)?\.json")
"""Weights in any format, and their indexes."""
OURS = {"config.json", "spikeconv.json"}
"""Written anew."""


def copy_companions(source: Path, target: Path) -> None:
    """Copy every file and folder below `source` but weights, indexes and hidden ones into the folder `target`.

    Contents are copied, not modes, so that a read-only folder can be published and removed like any other.

    Raises:
        OSError: a file cannot be read or written.
    """
    entries = [path for path in source.iterdir() if path.name not in OURS and not path.name.startswith(".")]
    _copy(entries, target)


def _copy(entries: list[Path], target: Path) -> None:
    for path in entries:
        if path.is_dir():
            if _holds(path, target) or (path.is_symlink() and _holds(path, path.parent)):
                continue  # an output inside the source does not hold itself, and no link leads round in a circle
            (target / path.name).mkdir()
            _copy(list(path.iterdir()), target / path.name)
        elif path.is_file() and not WEIGHTS.fullmatch(path.name):
            shutil.copyfile(path, target / path.name)


def _holds(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
