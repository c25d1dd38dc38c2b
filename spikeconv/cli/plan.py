"""`spikeconv plan`: `convert --dry-run` under a name of its own, with the same options."""

import inspect
from typing import Any

from spikeconv.cli.convert import convert

__all__ = ["plan"]

LEFT_OUT = ("delete_source_shards", "dry_run", "log_file", "restart")
"""Options of `convert` that a plan has no use for."""


def plan(**options: Any) -> None:
    """Say what a conversion would do and take, without reading weights: layers, sizes, memory, time, operations.

    Of a preset or a hub id nothing but its config.json is needed. Exit code 2 if it could not be done here.

    Example: [cyan]spikeconv plan llama2-70b --bits 4-1.58[/]
    """
    convert(**options, dry_run=True)


# What typer reads a command's options from.
plan.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [each for name, each in inspect.signature(convert).parameters.items() if name not in LEFT_OUT]
)
