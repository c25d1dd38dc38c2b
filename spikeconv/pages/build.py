"""From recordings to a folder: `report.html`, `report.json`, CSV files, and the pictures in `figures/`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from spikeconv import __version__
from spikeconv.checkpoint.scratch import Scratch
from spikeconv.evaluate.stored import stored_results
from spikeconv.pages.explain import cards, facts, settings_of, verdicts
from spikeconv.pages.figures import Picture, model_pictures, quality_pictures
from spikeconv.pages.files import FIGURES, FORMAT, PAGE, RECORD
from spikeconv.pages.page import ModelPage, Note, render
from spikeconv.pages.quality import Comparison, Scored, base_of_report, comparisons, missing_results
from spikeconv.pages.tables import (
    Table,
    Value,
    comparison_table,
    csv_text,
    energy_table,
    inputs_table,
    joined,
    model_files,
    neurobench_table,
    neurons_table,
    operations_table,
)
from spikeconv.pages.words import file_name
from spikeconv.plain import plain_value, write_json, write_text
from spikeconv.progress import Track, silent
from spikeconv.record.file import Recording
from spikeconv.report.model import ModelReport, model_report
from spikeconv.report.profiles import EnergyProfile

__all__ = ["unique_names", "write_report"]


def write_report(
    folder: Path,
    sources: Sequence[tuple[Recording, Path | None]],
    profiles: Mapping[str, EnergyProfile],
    *,
    force: bool = False,
    track: Track = silent,
) -> Path:
    """Write a report of some recordings; the folder appears when it is whole.

    Args:
        folder: to create.
        sources: recordings, each with the checkpoint that it is of, where that is at hand.
        profiles: energy profiles by name.
        force: replace an earlier report.
        track: progress display.

    Returns:
        The page.

    Raises:
        SpikeconvError: the folder is in the way.
        OSError: it cannot be written.
    """
    names = unique_names([_name(recording) for recording, _ in sources])
    with Scratch(folder, RECORD, force=force) as scratch:
        models = [
            Scored(name, model_report(recording, profiles), stored_results(path) if path else None, path)
            for name, (recording, path) in zip(names, sources, strict=True)
        ]
        _fill(scratch.scratch, models, track)
        scratch.publish()
    return folder / PAGE


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that several have."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def _name(recording: Recording) -> str:
    checkpoint = recording.about.get("checkpoint")
    return str(checkpoint.get("name") or "a recording")[:80] if isinstance(checkpoint, dict) else "a recording"


def _fill(folder: Path, models: Sequence[Scored], track: Track) -> None:
    found = comparisons(models) if len(models) > 1 else []
    quality, missing = quality_pictures(found), missing_results(models) if len(models) > 1 else []
    pages = [_page(f"m{index}-{file_name(model.name)}", model, track) for index, model in enumerate(models, 1)]
    compared = comparison_table([(model.name, model.report) for model in models])
    (folder / FIGURES).mkdir()
    for picture in (*quality, *(picture for page in pages for picture in page.pictures)):
        _write_picture(folder / FIGURES, picture)
    for table in (compared, *_results(models), *_files(models)):
        write_text(folder / f"{table.name}.csv", csv_text(table))
    write_text(folder / PAGE, render(pages, compared, _notes(models), quality, missing))
    content = {
        "format": FORMAT,
        "spikeconv": __version__,
        "models": [_json(model) for model in models],
        "comparisons": [_compared(each) for each in found],
        "missing": [note._asdict() for note in missing],
    }
    write_json(folder / RECORD, plain_value(content))


def _page(key: str, model: Scored, track: Track) -> ModelPage:
    report = model.report
    tables = [inputs_table(report)] if report.inputs else []
    tables.append(operations_table(report))
    tables += [*(energy_table(report, profile) for profile in report.energy), neurobench_table(report)]
    tables += [neurons_table(report)] if report.firing.neurons else []
    return ModelPage(
        key=key,
        name=model.name,
        facts=facts(report),
        cards=cards(report),
        verdicts=verdicts(report),
        notes=_lacks(report),
        pictures=model_pictures(report, key, track),
        tables=tables,
        settings=settings_of(report),
    )


def _lacks(report: ModelReport) -> list[Note]:
    """What a recording has not, and the command that gets it."""
    found = []
    if report.inputs and not report.rasters:
        found.append(Note("The recording has no spike trains; with them", "spikeconv record CHECKPOINT --force"))
    if report.inputs and not report.encoders:
        found.append(Note("The recording has no potentials; with them", "spikeconv record CHECKPOINT --force"))
    if not any(work.is_spiking for work in report.works):
        found.append(Note("Nothing is sent as spikes here, so there is no energy of spikes to compare."))
    return found


def _notes(models: Sequence[Scored]) -> list[Note]:
    """What must be known before models are compared."""
    found = []
    if len({base_of_report(model.report)[0] for model in models}) > 1:
        found.append(Note("These are conversions of different base models, whose scores cannot be compared."))
    texts = {str((model.report.about.get("text") or {}).get("sha256")) for model in models}
    if len(texts) > 1 or len({model.report.totals.tokens for model in models}) > 1:
        found.append(Note("Their spikes were counted on different texts, or on more or fewer tokens of one."))
    return found


def _write_picture(folder: Path, picture: Picture) -> None:
    write_text(folder / f"{picture.key}.svg", picture.image.svg)
    (folder / f"{picture.key}.png").write_bytes(picture.image.png)


def _files(models: Sequence[Scored]) -> list[Table]:
    """The tables of all models, each kind in one."""
    kinds: dict[str, list[tuple[str, Table]]] = {}
    for model in models:
        for table in model_files(model.report):
            kinds.setdefault(table.name, []).append((model.name, table))
    return [joined(tables) for tables in kinds.values()]


def _results(models: Sequence[Scored]) -> list[Table]:
    rows: list[tuple[Value, ...]] = [
        (model.name, result.name, result.metric, result.question, result.value, result.stderr)
        for model in models
        for result in model.results
    ]
    columns = ("checkpoint", "name", "metric", "question", "value", "standard error")
    return [Table.plain("results", columns, rows)] if rows else []


def _compared(each: Comparison) -> dict[str, object]:
    what = {"base": each.base, "name": each.result.name, "metric": each.result.metric, "of": each.of}
    return {**what, "float": each.baseline, "points": [vars(point) for point in each.points]}


def _json(model: Scored) -> dict[str, object]:
    results = [{**vars(result), "file": result.file.name if result.file else None} for result in model.results]
    return {"name": model.name, **model.report.to_dict(), "results": results}
