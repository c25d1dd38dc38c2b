"""`spikeconv doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from spikeconv.cli.console import out, print_json
from spikeconv.cli.fallbacks import silence_fallbacks
from spikeconv.cli.options import AsJson, Quiet, TrustRemoteCode

__all__ = ["doctor"]


def doctor(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A converted checkpoint to load and look at.", show_default=False)
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,  # noqa: ARG001 (it says nothing beside its answer)
) -> None:
    """Say what is installed, which device and back end run, and why; of a checkpoint, what falls back.

    Example: [cyan]spikeconv doctor --json[/]
    """
    from spikeconv.evaluate.environment import device_fallbacks, examine

    silence_fallbacks()
    report = examine()
    lost = device_fallbacks() if checkpoint is None else _fallbacks(checkpoint, trust_remote_code)
    if as_json:
        print_json({**report, "fallbacks": lost})
        return
    for section, values in report.items():
        out.print("[title]{section}[/]", section=section)
        for key, value in values.items():
            out.print("  {key:<14} {value}", key=key, value=value)
    out.print("[title]fallbacks[/]")
    for text in lost or ["none"]:
        out.print("  {text}", text=text)


def _fallbacks(checkpoint: Path, trust_remote_code: bool) -> list[str]:
    from spikeconv.checkpoint.folder import resolve_checkpoint
    from spikeconv.evaluate.models import load_converted
    from spikeconv.integrations.fallbacks import fallbacks

    return fallbacks(load_converted(resolve_checkpoint(checkpoint), trust_remote_code=trust_remote_code))
