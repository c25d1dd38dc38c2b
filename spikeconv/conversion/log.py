"""A conversion's log: lines of JSON, one for every tensor, in a file that the user names.

{"time": …, "event": "begin", "command": …, "source": …, "output": …, "tensors": …}
{"time": …, "event": "tensor", "name": …, "seconds": …, "written": {NAME: BLAKE3}, "relative_error": …}
{"time": …, "event": "end", "seconds": …}   or   {"time": …, "event": "stopped", "why": …}
"""

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.plain import plain_value

__all__ = ["ConversionLog", "check_log"]


def check_log(path: Path | None, output: Path) -> None:
    """Check that a log may be written, as far as can be seen without doing so.

    Raises:
        SpikeconvError: it lies in the checkpoint to create, is a folder, or there is no folder for it.
    """
    if path is None:
        return
    if path.resolve().is_relative_to(output.resolve()):
        raise SpikeconvError(f"--log-file {path} lies in the checkpoint to create; choose another place.")
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise SpikeconvError(f"--log-file {path} cannot be written: {why}.")


class ConversionLog:
    """Context manager of a log that is appended to; without a path it takes lines and forgets them.

    Args:
        path: the file, or None.
        output: the checkpoint that will be created, in which the log cannot lie.

    Raises:
        SpikeconvError: the file cannot be written.
    """

    def __init__(self, path: Path | None, output: Path) -> None:
        self._file, self._lock = None, threading.Lock()
        if path is None:
            return
        check_log(path, output)
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise SpikeconvError(f"--log-file {path} cannot be written: {error.strerror}.") from None

    def add(self, event: str, **values: Any) -> None:
        """Append a line, from any thread."""
        if self._file is None:
            return
        line = json.dumps(plain_value({"time": time.time(), "event": event, **values}), allow_nan=False)
        with self._lock:
            self._file.write(f"{line}\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            why = reason_of(error) if isinstance(error, Exception) else kind.__name__ if kind else ""
            self.add("stopped", why=why)
        if self._file is not None:
            self._file.close()
