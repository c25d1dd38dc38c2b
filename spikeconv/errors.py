"""The exceptions that a user is meant to read, the one category of warnings, and what others' exceptions say."""

__all__ = ["SpikeconvError", "SpikeconvWarning", "UnreadableError", "reason_of"]


class SpikeconvError(Exception):
    """Bad input: one sentence that names the file or module, what was found, what was expected, what to do.

    The command line prints the sentence and exits with code 2; nothing else of ours is shown without a traceback. What
    it quotes of somebody's file stays on one line, and moves no cursor of a terminal.
    """

    def __init__(self, sentence: str = "") -> None:
        super().__init__(
            "".join(each if each.isprintable() or _is_byte(each) else repr(each)[1:-1] for each in sentence)
        )


def _is_byte(character: str) -> bool:
    """Whether it stands for a byte of a file name that is no text."""
    return "\udc80" <= character <= "\udcff"


class UnreadableError(SpikeconvError, OSError):
    """A file that could be opened cannot be read any more: a disk or a network that may come back."""


class SpikeconvWarning(UserWarning):
    """Something runs another way than it should, with the reason: slower, or with a float cache. Never normal use."""


def reason_of(error: Exception) -> str:
    """What a library said: the first line (or two, after a colon), behind the kind of error where that helps."""
    lines, kind = [line.strip() for line in str(error).splitlines() if line.strip()], type(error).__name__
    line = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if line and isinstance(error, OSError | ValueError | RuntimeError):
        return line
    return f"{kind}: {line}" if line else kind
