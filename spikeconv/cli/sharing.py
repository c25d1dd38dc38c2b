"""`convert --shard`: what one of several processes may be asked, and when there is nothing left for it to do."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from spikeconv.checkpoint.folder import has_record, read_record
from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.scratch import check_target
from spikeconv.checkpoint.shard import Shard
from spikeconv.cli.console import err, print_json
from spikeconv.cli.measured import installed
from spikeconv.config import SpikeConfig
from spikeconv.conversion.shareable import refuse_calibrated
from spikeconv.errors import SpikeconvError

__all__ = ["check_place", "command_line", "end_if_published", "parse_shard"]

WHY_NOT = {
    "--force": "a shard that comes late would replace what the others have published; remove the old checkpoint first",
    "--restart": "each would remove what the others have written; remove the scratch folder first",
    "--delete-source-shards": "a file goes when one process has converted everything in it",
}


def parse_shard(text: str | None, output: Path | None, config: SpikeConfig, flags: Mapping[str, bool]) -> Shard | None:
    """The part that a process takes; None without `--shard`.

    Args:
        text: as on the command line.
        output: as on the command line.
        config: the settings.
        flags: those of `WHY_NOT`, by name.

    Raises:
        SpikeconvError: it is no I/N in range, there is no place that all share, or what is asked for cannot be shared.
    """
    if text is None:
        return None
    shard = Shard.parse(text)
    if output is None:
        raise SpikeconvError("--shard needs --output, in a folder that all who convert share.")
    for flag, is_given in flags.items():
        if is_given:
            raise SpikeconvError(f"{flag} does not go with --shard: {WHY_NOT[flag]}.")
    refuse_calibrated([config.weights])  # those of overrides when it is known which linears they mean
    return shard


def command_line() -> str:
    """The command line for a checkpoint's record: as one process would have been asked, whoever publishes it."""
    arguments, kept = iter(sys.argv[1:]), []
    for argument in arguments:
        if argument == "--shard":
            next(arguments, None)
        elif not argument.startswith("--shard="):
            kept.append(argument)
    return shlex.join(["spikeconv", *kept])


def check_place(target: Path, force: bool, shard: Shard | None, as_json: bool) -> None:
    """As `check_target`; a shard that comes when the same command has published everything ends well.

    Raises:
        SpikeconvError: see there.
        typer.Exit: there is nothing left to do.
    """
    end_if_published(target, shard, as_json)
    check_target(target, force, RECORD)


def end_if_published(target: Path, shard: Shard | None, as_json: bool) -> None:
    """End a shard for which nothing is left to do.

    Raises:
        typer.Exit: the same command has published everything.
        SpikeconvError: another command has; the same conversion may be said in other words.
    """
    if shard is None or not has_record(target):
        return
    if (command := read_record(target).get("command")) == command_line():
        err.print("[note]{target} is complete: other shards have published it.[/]", target=target)
        if as_json:
            how = {"measured": {"command": command_line(), "versions": installed()}}
            print_json({"output": str(target), "published": "by other shards", **how})
        raise typer.Exit
    raise SpikeconvError(
        f"{target} is complete, by `{command}`; if that is this conversion, nothing is left to do, else choose another "
        "--output."
    )
