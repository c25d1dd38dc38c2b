"""The `spikeconv` command."""

import sys
from typing import Annotated

import typer

from spikeconv import __version__
from spikeconv.cli.bench import bench
from spikeconv.cli.card import card
from spikeconv.cli.chat import chat
from spikeconv.cli.check import check
from spikeconv.cli.command import Command
from spikeconv.cli.compare import compare
from spikeconv.cli.convert import convert
from spikeconv.cli.doctor import doctor
from spikeconv.cli.evaluate import evaluate
from spikeconv.cli.export import export
from spikeconv.cli.failure import DEBUG, report_failure
from spikeconv.cli.finetune import finetune
from spikeconv.cli.frontier import frontier
from spikeconv.cli.generate import generate
from spikeconv.cli.models import models
from spikeconv.cli.perplexity import perplexity
from spikeconv.cli.plan import plan
from spikeconv.cli.push import push
from spikeconv.cli.ranked import RankedCommand
from spikeconv.cli.record import record
from spikeconv.cli.report import report
from spikeconv.cli.report_energy import report_energy
from spikeconv.cli.report_firing_rate import report_firing_rate
from spikeconv.cli.serve import serve
from spikeconv.cli.signals import stop_on_signals
from spikeconv.cli.similarity import similarity
from spikeconv.cli.streams import drop_stdout, prepare_streams
from spikeconv.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="spikeconv",
    help="Convert pretrained language models into spike-driven ones, and measure what comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("convert", cls=Command)(convert)
app.command("plan", cls=Command)(plan)
app.command("finetune", cls=Command)(finetune)
app.command("eval", cls=RankedCommand)(evaluate)
app.command("perplexity", cls=RankedCommand)(perplexity)
app.command("similarity", cls=Command)(similarity)
app.command("record", cls=RankedCommand)(record)
app.command("report", cls=Command)(report)
app.command("report-firing-rate", cls=Command)(report_firing_rate)
app.command("report-energy", cls=Command)(report_energy)
app.command("compare", cls=Command)(compare)
app.command("export", cls=Command)(export)
app.command("frontier", cls=Command)(frontier)
app.command("card", cls=Command)(card)
app.command("push", cls=Command)(push)
app.command("verify", cls=Command)(verify)
app.command("check", cls=Command)(check)
app.command("generate", cls=Command)(generate)
app.command("chat", cls=Command)(chat)
app.command("serve", cls=Command)(serve)
app.command("bench", cls=Command)(bench)
app.command("models", cls=Command)(models)
app.command("doctor", cls=Command)(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[  # anywhere on the command line: see `main`
        bool, typer.Option(DEBUG, help="Show the traceback of an error. (Or SPIKECONV_DEBUG=1.)")
    ] = False,
) -> None:
    """Convert pretrained language models into spike-driven ones, and measure what comes out."""


def main() -> None:
    """Run the command line: whatever goes wrong is one line on stderr and an exit code (see `report_failure`)."""
    prepare_streams()
    stop_on_signals()
    code: int | str | None = 0
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != DEBUG])
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        code = report_failure(error)
    try:
        sys.stdout.flush()
    except OSError as error:  # a reader that left, a full disk
        code = report_failure(error)
        drop_stdout()
    sys.exit(code)
