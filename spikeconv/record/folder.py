"""Where a recording lies: names of its files, known without reading them."""

from pathlib import Path

from spikeconv.errors import SpikeconvError

__all__ = ["ARRAYS", "JSON", "find_recording"]

JSON, ARRAYS = "record.json", "record.npz"


def find_recording(path: Path) -> Path:
    """The `record.json` of a recording, which is called by its folder or by that file.

    Raises:
        SpikeconvError: there is none.
    """
    file = path / JSON if path.is_dir() else path
    if not file.exists():
        raise SpikeconvError(f"{path} holds no {JSON}; `spikeconv record` makes one.")
    return file
