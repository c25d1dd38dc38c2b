"""`spikeconv record`: what a model's spikes were, on disk; reports are made of it."""

from pathlib import Path
from typing import Annotated

import typer

from spikeconv.cli.console import err, out, print_json, tracker
from spikeconv.cli.early import check_linears, given
from spikeconv.cli.options import AsJson, Checkpoint, Dataset, Device, Dtype, Quiet, SampleText, TrustRemoteCode
from spikeconv.cli.ranked import check_same
from spikeconv.errors import SpikeconvError
from spikeconv.ranks import current

__all__ = ["record"]


def record(
    checkpoint: Checkpoint = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.", show_default="CHECKPOINT/record")
    ] = None,
    text: SampleText = None,
    dataset: Dataset = None,
    task: Annotated[
        str | None, typer.Option(help="lm-eval tasks, with commas, whose documents are scored.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of the task.", show_default="all")] = None,
    data: Annotated[str, typer.Option(help="Of the task: hub, offline, or auto.")] = "auto",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text to read at most.")] = 16384,
    raster: Annotated[
        list[str] | None,
        typer.Option(
            help="Linear (name or pattern) whose spike trains are kept.",
            show_default="three: of the first, the middle and the last encoder",
        ),
    ] = None,
    raster_tokens: Annotated[int, typer.Option(min=1, help="Tokens of them, from the start.")] = 64,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier recording.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Record spikes once, to report on them many times: counts, positions, potentials, chosen spike trains.

    Several processes share the text: `accelerate launch -m spikeconv record …`.

    Example: [cyan]spikeconv record --text book.txt --tokens 100000 --raster '*.0.mlp.down_proj'[/]
    """
    from spikeconv.record.folder import JSON

    chosen = given({"--text": text, "--dataset": dataset, "--task": task})
    if len(chosen) > 1:
        raise SpikeconvError(f"Give {chosen[0]} or {chosen[1]}, not both.")
    if limit is not None and task is None:
        raise SpikeconvError("--limit is for the documents of a --task; of a text it is --tokens.")

    from spikeconv.checkpoint.folder import resolve_checkpoint
    from spikeconv.evaluate.tasks import choose_data, evaluate_tasks, resolve_tasks

    names = () if task is None else resolve_tasks(task)
    source = None if task is None else choose_data(data, names)
    path = resolve_checkpoint(checkpoint)
    check_linears(path, raster)
    folder = output or path / "record"
    if (folder / JSON).exists() and not force:
        raise SpikeconvError(f"{folder} holds a recording already; --force replaces it.")
    if folder.exists() and not folder.is_dir():
        raise SpikeconvError(f"{folder} is no folder.")

    ranks = current()
    check_same(path)
    source = ranks.gather(source)[0]

    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.record.about import about
    from spikeconv.record.file import Recording, write_recording
    from spikeconv.record.session import record_task, recording_of, some_trains

    if not quiet:
        err.print("[note]checkpoint {path}[/]", path=path)
    loaded = load_checkpoint(path, device=ranks.device(device), dtype=dtype, trust_remote_code=trust_remote_code)
    trains = (tuple(raster or some_trains(loaded.model)), raster_tokens)
    if source is not None:
        track = tracker(quiet)
        found, arrays = record_task(
            loaded.model,
            lambda: evaluate_tasks(loaded, names, data=source, limit=limit, track=track, ranks=ranks),
            trains,
            ranks,
        )
        what = {"what": f"{', '.join(names)} ({source})", "limit": limit}
        recording = Recording(found, about(loaded.model, path, found, what), arrays)
    else:
        from spikeconv.data.texts import text_or_sample

        content, label = text_or_sample(text, dataset)
        recording = recording_of(loaded, content, label, tokens, trains, tracker(quiet), ranks)
        found = recording.record
    if not ranks.is_first:
        return
    try:
        write_recording(folder, recording)
    except OSError as error:
        raise SpikeconvError(f"Writing {folder} failed: {error.strerror or error}.") from None
    spikes = sum(layer.spikes for layer in found.layers)
    if as_json:
        print_json({"output": str(folder), "measured": recording.about, "layers": len(found.layers), "spikes": spikes})
        return
    out.print(
        "[good]Recorded[/] {spikes:,} spikes of {layers} linears over [number]{found.tokens:,}[/] tokens of {what}\n"
        "Saved to [number]{folder}[/]",
        spikes=spikes,
        layers=len(found.layers),
        found=found,
        what=recording.about["text"]["what"],
        folder=folder,
    )
