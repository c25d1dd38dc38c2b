"""The one exception a user is meant to read."""

__all__ = ["SpikeconvError"]


class SpikeconvError(Exception):
    """Bad input: one sentence that names the file or module, what was found, what was expected, what to do.

    The command line prints the sentence and exits with code 2; nothing else of ours is shown without a traceback.
    """
