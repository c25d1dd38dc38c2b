"""What a command says when it cannot go on, and its exit code: never a traceback that nobody asked for."""

import errno
import os
import sys
import traceback

from spikeconv.cli.console import err
from spikeconv.cli.streams import drop_stdout
from spikeconv.errors import SpikeconvError

__all__ = ["DEBUG", "report_failure"]

DEBUG = "--debug"
BUG, BAD_INPUT, INTERRUPTED, NO_READER = 1, 2, 130, 141


def report_failure(error: BaseException) -> int:
    """Say in one line on stderr what stopped a command; returns the exit code.

    2 is bad input (or a full disk, a folder without permission), 1 a fault of ours or no memory, 130 Ctrl-C, and 141,
    without a word, that nobody reads our output any more. `--debug` or SPIKECONV_DEBUG=1 shows the traceback first.
    """
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        drop_stdout()
        return NO_READER
    if DEBUG in sys.argv or os.environ.get("SPIKECONV_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    kind, message = type(error).__name__, _first_line(error)
    if isinstance(error, KeyboardInterrupt):
        err.print("[bad]interrupted[/]{why}", why=f": {message}" if message else "")
        return INTERRUPTED
    if isinstance(error, SpikeconvError):
        err.print("[bad]error:[/] {error}", error=error)
        return BAD_INPUT
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        err.print("[bad]error:[/] {what}{where}", what=error.strerror or message or kind, where=where)
        return BAD_INPUT
    if kind in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in message:
        err.print("[bad]error:[/] out of memory{what}", what=f": {message}" if message else "")
        return BUG
    err.print(
        "[bad]error:[/] {kind}: {message} (this is a bug; run again with {debug} for the traceback)",
        kind=kind,
        message=message,
        debug=DEBUG,
    )
    return BUG


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
