"""The `spikeconv` command from its first import on; `python -m spikeconv`, as launchers call it, is the same."""

import sys

from spikeconv.cli.signals import exit_code

__all__ = ["start"]


def start() -> None:
    """Run the command line; a signal amid its imports, or after its last word, ends it without a traceback."""
    try:
        from spikeconv.cli.app import main

        main()
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))


if __name__ == "__main__":
    start()
