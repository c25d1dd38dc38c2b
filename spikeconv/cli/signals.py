"""Signals that ask a process to end: they end it as Ctrl-C does, so that what was begun is put in order first."""

import signal
from types import FrameType

__all__ = ["exit_code", "stop_on_signals"]


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class _HungUp(KeyboardInterrupt):
    """SIGHUP came."""


STOPS: dict[type[KeyboardInterrupt], signal.Signals] = {_Terminated: signal.SIGTERM, _HungUp: signal.SIGHUP}


def _stop(number: int, _frame: FrameType | None) -> None:
    raise next(kind for kind, each in STOPS.items() if each == number)


def stop_on_signals() -> None:
    """Take them, unless somebody (`nohup`, say) chose otherwise."""
    for number in STOPS.values():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells say it: 130 for Ctrl-C."""
    return 128 + STOPS.get(type(stop), signal.SIGINT)
