"""`spikeconv compare`: checkpoints, recordings and float models side by side."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeconv.cli.console import err, out, print_json, table, tracker
from spikeconv.cli.early import given
from spikeconv.cli.measured import installed, text_of
from spikeconv.cli.options import AsJson, Dataset, Device, Dtype, Profiles, Quiet, TrustRemoteCode
from spikeconv.cli.report_energy import DEFAULT_PROFILES, profiles_of
from spikeconv.cli.settings import split
from spikeconv.comparison.subjects import find_subjects
from spikeconv.comparison.table import Table, as_csv, as_markdown
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.names import resolve_tasks
from spikeconv.plain import write_text

if TYPE_CHECKING:
    from spikeconv.comparison.missing import Question

__all__ = ["compare"]

MEASURES = ("spikes", "perplexity", "tasks", "speed")
SUFFIXES = (".md", ".csv", ".json")
LABEL, CELL, WIDEST = 30, 12, 14
"""Columns of a terminal for the names of rows, and for a cell, at least and at most."""


def compare(
    compared: Annotated[
        list[str],
        typer.Argument(
            metavar="A B …", help="Checkpoints, recordings, and float models (a preset, hub id, directory)."
        ),
    ],
    measures: Annotated[
        str,
        typer.Option(
            "--measure", help="What is run where it is missing: spikes, perplexity, tasks, speed, with commas; or none."
        ),
    ] = "spikes",
    text: Annotated[
        Path | None,
        typer.Option(
            help="UTF-8 text to read.", show_default="for spikes a bundled sample, for perplexity BoolQ's passages"
        ),
    ] = None,
    dataset: Dataset = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of the text.", show_default="1,024 for spikes, 8,192 for perplexity"),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens per window of a perplexity.", show_default="2,048, or what a model can hold"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="lm-eval tasks, with commas.", show_default="with --measure tasks, what any has answered"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N documents of a task.")] = None,
    data: Annotated[str, typer.Option(help="Of the tasks: hub, offline, or auto.")] = "auto",
    profiles: Profiles = DEFAULT_PROFILES,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table of Markdown.")] = False,
    as_csv_table: Annotated[bool, typer.Option("--csv", help="Print values as CSV.")] = False,
    as_json: AsJson = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write FILE.md, FILE.csv or FILE.json.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    quiet: Quiet = False,
) -> None:
    """Bits, spikes, operations, energy, perplexity, tasks, size and speed, side by side.

    What `eval`, `perplexity` and `record` left behind is used if it is of this very checkpoint.

    Example: [cyan]spikeconv compare smollm2-135m sdllm ramp5 --measure spikes,perplexity,speed[/]
    """
    wanted = _measures(measures)
    subjects = find_subjects(compared)
    if text is not None and dataset is not None:
        raise SpikeconvError("Give --text or --dataset, not both.")
    if text is not None and not text.is_file():
        raise SpikeconvError(f"Could not read {text}: there is no such file.")
    if "tasks" not in wanted and (named := given({"--tasks": tasks, "--limit": limit})):
        raise SpikeconvError(f"{named[0]} is for --measure tasks.")
    if "perplexity" not in wanted and window is not None:
        raise SpikeconvError("--window is for --measure perplexity.")
    if sum((markdown, as_csv_table, as_json)) > 1:
        raise SpikeconvError("Give one of --markdown, --csv and --json.")
    if output is not None:
        _check_output(output)
    loaded = profiles_of(profiles)
    asked_tasks = None if tasks is None else resolve_tasks(tasks)

    from spikeconv.comparison.measure import Loading
    from spikeconv.comparison.missing import Question, Tasks, Text
    from spikeconv.comparison.run import compare as run
    from spikeconv.data.texts import read_text, text_or_sample
    from spikeconv.evaluate.tasks import choose_data
    from spikeconv.loading import find_device, parse_dtype

    parse_dtype(dtype)
    find_device(device)
    content, label = text_or_sample(text, dataset)

    def question() -> "Question":
        same = text is not None or dataset is not None
        other, name = (content, label) if same else read_text()
        return Question(Text(name, other, tokens or 8192), window, tokens or 8192)

    chosen = None
    if asked_tasks is not None:
        chosen = Tasks(asked_tasks, limit, None, choose_data(data, asked_tasks))
    found = run(
        subjects,
        wanted=wanted,
        text=Text(label, content, tokens or 1024),
        question=question,
        tasks=chosen,
        named=bool(given({"--text": text, "--dataset": dataset, "--tokens": tokens})),
        profiles=loaded,
        loading=Loading(device, dtype, trust_remote_code),
        track=tracker(quiet),
        note=lambda what: None if quiet else err.print("[note]{what}[/]", what=what),
    )
    if output is not None:
        write_text(output, _written(found, output.suffix))
    if as_json:
        read = {"text": text_of(content, label), "tokens": tokens, "tasks": asked_tasks, "limit": limit}
        how = {"compared": compared, "measures": wanted, **read, "profiles": list(loaded), "dtype": dtype}
        print_json({**found.to_dict(), "measured": {**how, "device": device, "versions": installed()}})
    elif markdown or as_csv_table:
        print(as_markdown(found) if markdown else as_csv(found), end="")
    else:
        show(found, out.console.width)


def _measures(text: str) -> tuple[str, ...]:
    names = split(text)
    unknown = [name for name in names if name not in (*MEASURES, "none")]
    if unknown or not names or ("none" in names and len(names) > 1):
        raise SpikeconvError(f"--measure is {text!r}; give none, or some of {', '.join(MEASURES)}, with commas.")
    return () if names == ("none",) else names


def _check_output(output: Path) -> None:
    if output.suffix not in SUFFIXES:
        raise SpikeconvError(f"{output} ends in none of {', '.join(SUFFIXES)}, which say what is written.")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise SpikeconvError(
            f"{output} cannot be written: {'it is a folder' if output.is_dir() else 'no such folder'}."
        )


def _written(found: Table, suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"
    return as_csv(found) if suffix == ".csv" else as_markdown(found)


def show(found: Table, width: int) -> None:
    """Quantities as rows; as many columns beside each other as there is room for, the rest below."""
    label = min(LABEL, max(20, width - CELL - 2))
    widest = [
        min(WIDEST, max(CELL, *(len(row.cells[index].text) for row in found.rows)))
        for index in range(len(found.columns))
    ]
    blocks, room = list[list[int]](), 0
    for index, wide in enumerate(widest):
        if not blocks or room < wide + 2:
            blocks, room = [*blocks, []], max(width - label, wide + 2)
        blocks[-1].append(index)
        room -= wide + 2
    for block in blocks:
        rows = table("", "", *(_broken(found.columns[index], widest[index]) for index in block))
        section = ""
        for row in found.rows:
            units = {other.unit for other in found.rows if other.section == row.section}
            if row.section != section:
                section = row.section
                unit = f" ({row.unit})" if row.unit and len(units) == 1 else ""
                rows.add_row(f"{section}{unit}", *("" for _ in block), style="title")
            cells = (_broken(row.cells[index].text, widest[index]) for index in block)
            rows.add_row(f"  {row.name + row.mark if len(units) == 1 else row.label}", *cells)
        out.show(rows)
        out.print("")
    for number, note in enumerate(found.notes, 1):
        out.print("[note]({number}) {note}[/]", number=number, note=note)


def _broken(text: str, width: int) -> str:
    """Text on lines of that width, broken between words, and after the signs that paths and names have."""
    lines = [""]
    for piece in re.findall(r"[^\s/_.-]*[\s/_.-]?", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
