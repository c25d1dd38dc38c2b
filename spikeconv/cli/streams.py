"""Standard streams that take whatever is printed: closed ones, and those of a locale without our characters."""

import codecs
import contextlib
import io
import os
import sys

__all__ = ["drop_stdout", "is_terminal", "prepare_streams"]

SUBSTITUTES = {"×": "x", "µ": "u", "τ": "tau", "±": "+-", "…": "...", "→": "->", "’": "'", "“": '"', "”": '"'}
HANDLER = "spikeconv.substitute"


def prepare_streams() -> None:
    """Let stdout and stderr print every text.

    Characters that the encoding lacks become similar ones or `?`, bytes of a file name that are no text stay those
    bytes. Descriptors closed by whoever started us are opened on the null device: else the first file that is opened
    becomes stdout.
    """
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            _hold(descriptor)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as we run)
    codecs.register_error(HANDLER, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def is_terminal(name: str) -> bool:
    """Whether `sys.stdout` or `sys.stderr` is there and a terminal."""
    stream = getattr(sys, name)
    return stream is not None and bool(stream.isatty())


def drop_stdout() -> None:
    """Let what is still in the buffer of a stdout that nobody reads go nowhere, instead of failing at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not a file, or closed already
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _hold(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as Python holds it
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return SUBSTITUTES.get(character, "?"), error.start + 1
