"""`spikeconv frontier`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeconv.cli.console import err, out, print_json, table, tracker
from spikeconv.cli.measured import installed
from spikeconv.cli.options import AsJson, Device, Dtype, Quiet, Source, TrustRemoteCode
from spikeconv.cli.settings import model_name
from spikeconv.sources.presets import DEFAULT_MODEL

if TYPE_CHECKING:
    from spikeconv.frontier.measure import Measurement
    from spikeconv.frontier.rows import Frontier

__all__ = ["frontier"]

Grid = Annotated[
    Path | None,
    typer.Option(help="A YAML list of points: label, mark, scheme, settings.", show_default="configs/frontier.yaml"),
]
Points = Annotated[str | None, typer.Option(help="Labels of the points to measure, with commas.", show_default="all")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of measurements, table and picture.", show_default="frontier-MODEL"),
]
Windows = Annotated[int, typer.Option(min=1, help="Windows of 1,024 tokens to read of each text.")]
Limit = Annotated[int, typer.Option(min=0, help="Documents of PIQA and ARC-easy to score; 0: none.")]


def frontier(
    source: Source = None,
    grid: Grid = None,
    points: Points = None,
    output: Output = None,
    windows: Windows = 2,
    limit: Limit = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a grid of conversions, spikes against perplexity, and draw what nothing beats; resumable.

    Example: [cyan]spikeconv frontier smollm2-135m --windows 2 --limit 100[/]
    """
    from spikeconv.frontier.grid import choose_points, load_grid

    chosen = choose_points(load_grid(grid), points)
    name = source or DEFAULT_MODEL

    from spikeconv.frontier.draw import draw
    from spikeconv.frontier.measure import Protocol, measured_texts
    from spikeconv.frontier.run import run_frontier
    from spikeconv.loading import parse_dtype
    from spikeconv.plain import plain_value, write_json, write_text
    from spikeconv.sources.resolve import open_source, resolve_source

    parse_dtype(dtype)
    folder = output or Path(f"frontier-{model_name(name)}")
    opened = open_source(resolve_source(name), trust_remote_code=trust_remote_code)
    protocol = Protocol(measured_texts(), windows, limit, device, dtype)
    found = run_frontier(
        opened,
        chosen,
        protocol,
        folder,
        track=tracker(quiet),
        note=lambda text: None if quiet else err.print("[note]{text}[/]", text=text),
        on_row=lambda label, measured, kept: None if quiet else show_row(label, measured, kept),
    )
    how = {"source": str(opened.path), **protocol.identity(), "versions": installed()}
    content = {"model": model_name(name), "measured": how, **found.to_dict()}
    write_json(folder / "frontier.json", plain_value(content))
    write_text(folder / "frontier.csv", found.csv())
    write_text(folder / "frontier.svg", draw(found, model_name(name)))
    if as_json:
        print_json(content)
        return
    show_frontier(found, model_name(name))
    out.print("[note]{folder}: frontier.csv, frontier.json, frontier.svg[/]", folder=folder)


def show_row(label: str, measured: "Measurement", kept: bool) -> None:
    """A point that is measured, or was."""
    spikes = "" if measured.spikes_per_input is None else f", {measured.spikes_per_input:.2f} spikes per input"
    err.print(
        "{label}: perplexity {perplexity}{spikes} ({when})",
        label=label,
        perplexity=", ".join(f"{value:.2f} ({name})" for name, value in measured.perplexity.items()),
        spikes=spikes,
        when="measured before" if kept else f"{measured.seconds:.0f} s",
    )


def show_frontier(found: "Frontier", name: str) -> None:
    """The table, best points marked, and what is missing from it."""
    texts, tasks = list(found.rows[0].measured.perplexity), list(found.rows[0].measured.tasks)
    columns = ("", "mark", "spikes/input", "slots", "zeros", "additions/token", *texts, "× float", *tasks, "MB", "s")
    rows = table(f"{name}: perplexity and spikes", *columns, text=["mark"])
    best = {row.label for row in found.pareto}
    for row in found.rows:
        measured = row.measured
        rows.add_row(
            f"{'●' if row.label in best else ' '} {row.label}",
            row.mark,
            _number(measured.spikes_per_input, ".2f"),
            _number(measured.slots, "d"),
            _number(measured.zero_share, ".1%"),
            _number(None if measured.additions_per_token is None else measured.additions_per_token / 1e6, ".1f", " M"),
            *(f"{measured.perplexity[text]:.2f}" for text in texts),
            f"{found.worst(row):.3f}",
            *(f"{measured.tasks[task]:.1%}" for task in tasks),
            f"{measured.bytes / 1e6:.1f}",
            f"{measured.seconds:.0f}",
            style="bold" if row.label in best else None,
        )
    out.show(rows)
    out.print(
        "[note]● no other point has fewer spikes and a lower perplexity (the worse text's, beside the float model's)[/]"
    )
    for label, reason in found.left_out.items():
        out.print("[note]left out: {label}: {reason}[/]", label=label, reason=reason)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
