"""What a command says when it cannot go on, and its exit code: never a traceback that nobody asked for."""

import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spikeconv.cli.console import err
from spikeconv.cli.signals import exit_code
from spikeconv.cli.streams import drop_stdout
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.plain import plain_value

__all__ = ["DEBUG", "convenience", "report_failure", "show_lost_baseline"]

DEBUG = "--debug"
BUG, BAD_INPUT, NO_READER = 1, 2, 141


def report_failure(error: BaseException) -> int:
    """Say in one line on stderr what stopped a command; returns the exit code.

    2 is bad input (or a full disk, a folder without permission), 1 a fault of ours or no memory, 130 Ctrl-C, 143
    SIGTERM, 129 SIGHUP, and 141, without a word, that nobody reads our output any more.
    `--debug` or SPIKECONV_DEBUG=1 shows the traceback first.
    """
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        drop_stdout()
        return NO_READER
    if _debug():
        traceback.print_exception(error)
    kind, message = type(error).__name__, next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, KeyboardInterrupt):
        err.print("[bad]interrupted[/]{why}", why=f": {message}" if message else "")
        return exit_code(error)
    if isinstance(error, SpikeconvError):
        err.print("[bad]error:[/] {error}", error=error)
        return BAD_INPUT
    if isinstance(error, OSError):
        err.print("[bad]error:[/] {what}", what=_reason(error))
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


@contextmanager
def convenience(lost: str) -> Iterator[None]:
    """Do something that is only convenient, after the work: its failure is a warning that says what is `lost`."""
    try:
        yield
    except Exception as error:
        if _debug():
            traceback.print_exception(error)
        err.print("[bad]warning:[/] {lost}: {why}", lost=lost, why=_reason(error))


def show_lost_baseline(measured: dict[str, Any]) -> None:
    """Print what was measured of the float model, as JSON on stderr, where its comparison will not come."""
    err.print("[note]baseline, measured before the failure:[/] {measured}", measured=json.dumps(plain_value(measured)))


def _debug() -> bool:
    return DEBUG in sys.argv or os.environ.get("SPIKECONV_DEBUG", "0") not in ("", "0")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return reason_of(error)
