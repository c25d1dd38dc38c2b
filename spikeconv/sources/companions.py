"""The files that go with the weights: tokenizer, chat template, generation config, remote code, licence.

A source is somebody else's folder. What is copied from it into a checkpoint, which may be published, are regular files
below it (or blobs of the hub's cache that belong to it): no link leads out of it, and nothing is read that has no end.
"""

import os
import re
import shutil
import warnings
from pathlib import Path

from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.untrusted import kind_of

__all__ = ["check_companions", "copy_companions"]

WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|gguf|h5|msgpack|onnx)|.*\.(safetensors|bin)\.index(\.\w+)?\.json")
"""Weights in any format, and their indexes."""
OURS = {"config.json", "spikeconv.json"}
"""Written anew."""
MOST_BYTES = 256 << 20
"""Of one file; a larger one is no companion, whatever it is called."""


def check_companions(source: Path) -> None:
    """Look at every file and folder that `copy_companions` would copy, and at `config.json`; weights may be links.

    Raises:
        SpikeconvError: a link leads out of the source or nowhere, or something is neither a file nor a folder.
    """
    root = source.resolve()
    for path in _walk([path for path in source.iterdir() if not path.name.startswith(".")]):
        if path.is_dir() or not WEIGHTS.fullmatch(path.name):
            _check(path, root)


def copy_companions(source: Path, target: Path) -> None:
    """Copy every file and folder below `source` but weights, indexes and hidden ones into the folder `target`.

    Contents are copied, not modes, so that a read-only folder can be published and removed like any other. A file that
    is too large is left out, with a warning.

    Raises:
        OSError: a file cannot be read or written.
        SpikeconvError: as `check_companions`.
    """
    _copy(_entries(source), target, source.resolve())


def _entries(source: Path) -> list[Path]:
    return [path for path in source.iterdir() if path.name not in OURS and not path.name.startswith(".")]


def _walk(entries: list[Path]) -> list[Path]:
    """All of them and what is below folders; links to folders are not entered."""
    found = []
    for path in entries:
        found.append(path)
        if path.is_dir() and not path.is_symlink():
            found += _walk(list(path.iterdir()))
    return found


def _copy(entries: list[Path], target: Path, root: Path) -> None:
    for path in entries:
        if WEIGHTS.fullmatch(path.name) and not path.is_dir():
            continue
        real = _check(path, root)
        if real.is_dir():
            if _holds(path, target) or (path.is_symlink() and _holds(path, path.parent)):
                continue  # an output inside the source does not hold itself, and no link leads round in a circle
            (target / path.name).mkdir()
            _copy(list(path.iterdir()), target / path.name, root)
        elif real.stat().st_size > MOST_BYTES:
            warnings.warn(
                f"{path} has {real.stat().st_size:,} bytes and was not copied: no companion of weights is so large.",
                SpikeconvWarning,
                stacklevel=2,
            )
        else:
            shutil.copyfile(real, target / path.name, follow_symlinks=False)


def _check(path: Path, root: Path) -> Path:
    """Where a file or folder really lies."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        raise SpikeconvError(f"{path} is a link that leads nowhere; remove it from the source.") from None
    if not any(real.is_relative_to(folder) for folder in (root, *_blobs(root))):
        raise SpikeconvError(
            f"{path} is a link that leads out of {root}, to {real}; copy the file, or remove the link."
        )
    if not os.path.isdir(real) and (kind := kind_of(mode)) is not None:
        raise SpikeconvError(f"{path} is {kind}; remove it from the source.")
    return real


def _blobs(root: Path) -> list[Path]:
    """Where the files of a snapshot in the hub's cache lie: MODEL/snapshots/REVISION links to MODEL/blobs."""
    return [root.parents[1] / "blobs"] if root.parent.name == "snapshots" else []


def _holds(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
