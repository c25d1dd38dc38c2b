"""Conversions that come to an end: children that are killed at a file-system operation, sources that fail."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spikeconv.checkpoint import scratch
from spikeconv.checkpoint.format import RECORD
from spikeconv.sources.hf import HfSource

__all__ = ["KILLED", "contents", "end_of", "fail_at_read", "operations", "run_killed", "start", "start_killed"]

KILLED = -signal.SIGKILL
CALLS = ("pwrite", "ftruncate", "replace", "rename", "unlink", "mkdir", "rmdir", "fsync", "open", "close", "symlink")
"""Of `os`, which `pathlib` and `shutil` call too."""


def operations(run: Callable[[], object]) -> int:
    """How many operations something takes; it is run in a child, and its files stay."""
    reader, writer = os.pipe()
    assert end_of(start(lambda: _counted(run, writer))) == 0
    os.close(writer)
    with os.fdopen(reader) as counted:
        return int(counted.read())


def run_killed(run: Callable[[], object], fatal: int, after: bool) -> int:
    """Run something in a child that is killed before (or after) an operation, counted from 1; its exit status."""
    return end_of(start_killed(run, fatal, after))


def start_killed(run: Callable[[], object], fatal: int, after: bool) -> int:
    """The same, not waited for: the child's number."""
    return start(lambda: (_wrap(fatal, after), run()))


def _counted(run: Callable[[], object], writer: int) -> None:
    write, left = os.write, _wrap(0, False)
    run()
    write(writer, str(-left[0]).encode())


def _wrap(fatal: int, after: bool) -> list[int]:
    left = [fatal]

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            fatal = left[0] == 0
            if fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*arguments, **options)
            finally:
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))
    scratch.exchange = wrapped(scratch.exchange)
    return left


def start(run: Callable[[], object]) -> int:
    """Begin something in a child; its number."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            run()
            code = 0
        os._exit(code)
    return child


def end_of(child: int) -> int:
    """The exit status of a child when it has ended; negative, if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fail_at_read(monkeypatch: pytest.MonkeyPatch, number: int, error: type[BaseException]) -> list[str]:
    """Let the source fail at a tensor; returns the names of those read before."""
    calls: list[str] = []

    def failing(read: Any) -> Any:
        def patched(self: HfSource, name: str, *rows: int) -> Any:
            if len(calls) == number:
                raise error
            calls.append(name)
            return read(self, name, *rows)

        return patched

    for way in ("load", "blocks"):
        monkeypatch.setattr(HfSource, way, failing(getattr(HfSource, way)))
    return calls


def contents(path: Path) -> dict[str, bytes]:
    """Every file; of the record, all but its time stamp."""
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    if RECORD in found:
        record = json.loads(found[RECORD])
        del record["created"]
        found[RECORD] = json.dumps(record).encode()
    return found
