"""Whatever happens, a command ends with one line and the right exit code."""

import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import spikeconv.sources.presets as presets
from spikeconv.__main__ import start
from spikeconv.cli import models
from spikeconv.cli.signals import STOPS
from spikeconv.errors import SpikeconvError

Run = Callable[..., Any]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the command `models` raise something."""

    def fail_with(error: BaseException) -> None:
        def raise_it() -> Any:
            raise error

        monkeypatch.setattr(models, "model_presets", raise_it)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SpikeconvError("a [b] c"), 2, "error: a [b] c"),
        (OSError(28, "No space left on device", "/a/[b]"), 2, "error: No space left on device (/a/[b])"),
        (OSError("odd"), 2, "error: odd"),
        (TimeoutError(), 2, "error: TimeoutError"),
        (KeyError("x [y]"), 1, "error: KeyError: 'x [y]' (this is a bug; run again with --debug for the traceback)"),
        (ValueError("one\ntwo"), 1, "error: ValueError: one (this is a bug; run again with --debug for the traceback)"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, "error: out of memory: can't allocate memory: 9 bytes"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("/out was not written"), 130, "interrupted: /out was not written"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_one_line_and_an_exit_code(
    spikeconv: Run, failing: Callable[[BaseException], None], error: BaseException, code: int, line: str
) -> None:
    failing(error)
    result = spikeconv("models")
    assert (result.code, result.out, result.err.removesuffix("\n")) == (code, "", line)


def test_debug_shows_the_traceback(
    spikeconv: Run, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (KeyError("x"), SpikeconvError("bad")):
        failing(error)
        for arguments in (("--debug", "models"), ("models", "--debug")):
            assert "Traceback" in spikeconv(*arguments).err
        with monkeypatch.context() as patch:
            patch.setenv("SPIKECONV_DEBUG", "1")
            result = spikeconv("models")
            assert "Traceback" in result.err and result.code == (1 if isinstance(error, KeyError) else 2)
        assert "Traceback" not in spikeconv("models").err


def test_a_signal(spikeconv: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a command runs."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(models, "model_presets", lambda: os.kill(os.getpid(), signal.SIGINT) or presets.model_presets())
    try:
        result = spikeconv("models")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (result.code, result.err) == (130, "interrupted\n")


def test_a_signal_around_the_work_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the imports are done, and behind the last word."""
    for stop, code in ((KeyboardInterrupt(), 130), (next(k for k, n in STOPS.items() if n == signal.SIGTERM)(), 143)):

        class Interrupted(ModuleType):
            def __getattr__(self, name: str, stop: BaseException = stop) -> Any:
                raise stop

        monkeypatch.setitem(sys.modules, "spikeconv.cli.app", Interrupted("spikeconv.cli.app"))
        with pytest.raises(SystemExit) as ended:
            start()
        assert ended.value.code == code
