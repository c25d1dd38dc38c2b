"""What all commands have in common: mistakes that are told at once, `~` in paths, and how they end."""

import sys
import warnings
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from spikeconv.cli.early import check_arguments
from spikeconv.cli.failure import report_failure
from spikeconv.cli.fallbacks import show_warning
from spikeconv.cli.stray import list_hint
from spikeconv.errors import SpikeconvError

__all__ = ["Command"]


class Command(TyperCommand):
    """A command whose failures are reported in one line, and whose paths may begin with `~`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; a word too many may belong to the list of an option."""
        words = list(args)
        ctx.meta["hint"] = lambda word: list_hint(words, word, self.params)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            said, _, extra = str(getattr(error, "message", "")).rpartition("(")
            if "extra argument" in said and (hint := ctx.meta["hint"](extra.rstrip(")").split()[0])):
                error.message += f".{hint}"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run it; typer itself would end an interrupt or a closed pipe without our line or exit code."""
        try:
            ctx.params = {name: _expand(value) for name, value in ctx.params.items()}
            check_arguments(ctx.params, ctx.meta["hint"])
            with warnings.catch_warnings():
                warnings.showwarning = show_warning
                result = self.call(ctx)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code"):  # typer's own
                raise
            raise typer.Exit(report_failure(error)) from error
        return result

    def call(self, ctx: Any) -> Any:
        """Do the work."""
        return super().invoke(ctx)


def _expand(value: Any) -> Any:
    """A path with `~` for a home, as in `--output=~/out`, which shells leave as it is."""
    if not isinstance(value, Path) or not str(value).startswith("~"):
        return value
    try:
        return value.expanduser()
    except RuntimeError:
        raise SpikeconvError(f"{value}: there is no home folder to put in for ~; write the whole path.") from None
