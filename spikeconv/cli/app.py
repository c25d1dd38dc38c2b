"""The `spikeconv` command."""

import sys
from typing import Annotated

import typer

from spikeconv import __version__
from spikeconv.cli.bench import bench
from spikeconv.cli.console import err
from spikeconv.cli.convert import convert
from spikeconv.cli.doctor import doctor
from spikeconv.cli.evaluate import evaluate
from spikeconv.cli.finetune import finetune
from spikeconv.cli.generate import generate
from spikeconv.cli.models import models
from spikeconv.cli.perplexity import perplexity
from spikeconv.cli.report_firing_rate import report_firing_rate
from spikeconv.cli.verify import verify
from spikeconv.errors import SpikeconvError

__all__ = ["app", "main"]

BAD_INPUT = 2

app = typer.Typer(
    name="spikeconv",
    help="Convert pretrained language models into spike-driven ones, and measure what comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("convert")(convert)
app.command("finetune")(finetune)
app.command("eval")(evaluate)
app.command("perplexity")(perplexity)
app.command("report-firing-rate")(report_firing_rate)
app.command("verify")(verify)
app.command("generate")(generate)
app.command("bench")(bench)
app.command("models")(models)
app.command("doctor")(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Convert pretrained language models into spike-driven ones, and measure what comes out."""


def main() -> None:
    """Run the command line: bad input is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except SpikeconvError as error:
        err.print(f"[bad]error:[/] {_escape(str(error))}")
        sys.exit(BAD_INPUT)
    except OSError as error:  # a full disk, a folder without permission
        where = f" ({error.filename})" if error.filename else ""
        err.print(f"[bad]error:[/] {_escape(f'{error.strerror or error}{where}')}")
        sys.exit(BAD_INPUT)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
