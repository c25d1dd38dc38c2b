"""Commands that several processes can share: the first one prints and writes, and whoever fails is named."""

import os
from pathlib import Path
from typing import Any

import typer

from spikeconv.cli.command import Command
from spikeconv.cli.console import err, out
from spikeconv.cli.measured import installed
from spikeconv.cli.signals import exit_code
from spikeconv.ranks import current, is_one_of_several, joined

__all__ = ["RankedCommand", "check_same"]


class RankedCommand(Command):
    """A command that `accelerate launch` or `torchrun` may start several times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; what is wrong with it is said once on a host."""
        err.is_muted = is_one_of_several() and os.environ["LOCAL_RANK"] != "0"
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if err.is_muted and hasattr(error, "exit_code"):  # typer's own, which it would print
                raise typer.Exit(error.exit_code) from error
            raise

    def call(self, ctx: Any) -> Any:
        """Do the work, with all the others."""
        first = not err.is_muted
        try:
            with joined() as ranks:
                first = ranks.is_first
                out.is_muted = err.is_muted = not first
                return super().call(ctx)
        except KeyboardInterrupt as stop:
            if first:
                raise
            raise typer.Exit(exit_code(stop)) from stop
        except Exception:
            err.is_muted = not first  # which says what another one has told it
            raise


def check_same(checkpoint: Path, **what: Any) -> None:
    """Check that all ranks measure the same, with the same.

    Raises:
        SpikeconvError: they would not.
    """
    from spikeconv.checkpoint.folder import checkpoint_digest

    if current().count > 1:
        current().agree(**{"The checkpoint": checkpoint_digest(checkpoint), "The version": installed()}, **what)
