"""The one exception that a user is meant to read, and the one category of warnings."""

__all__ = ["SpikeconvError", "SpikeconvWarning"]


class SpikeconvError(Exception):
    """Bad input: one sentence that names the file or module, what was found, what was expected, what to do.

    The command line prints the sentence and exits with code 2; nothing else of ours is shown without a traceback.
    """


class SpikeconvWarning(UserWarning):
    """Something runs another way than it should, with the reason: slower, or with a float cache. Never normal use."""
