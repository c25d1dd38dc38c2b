"""`spikeconv report`: a page to look at."""

from pathlib import Path
from typing import Annotated

import typer

from spikeconv.checkpoint.scratch import check_target
from spikeconv.cli.console import out, print_json, tracker
from spikeconv.cli.early import check_extra, check_linears, check_spiking, given
from spikeconv.cli.options import AsJson, Dataset, Device, Dtype, Profiles, Quiet, SampleText, TrustRemoteCode
from spikeconv.cli.report_energy import DEFAULT_PROFILES, profiles_of
from spikeconv.errors import SpikeconvError
from spikeconv.pages.files import RECORD

__all__ = ["report"]

TOKENS = 2048


def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CHECKPOINT|RECORDING]...",
            help="Converted checkpoints, or folders that `spikeconv record` wrote; the last converted one if omitted.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.", show_default="NAME-report")
    ] = None,
    text: SampleText = None,
    dataset: Dataset = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to read at most.", show_default=str(TOKENS))] = None,
    raster: Annotated[
        list[str] | None,
        typer.Option(
            help="Linear (name or pattern) whose spikes are drawn.",
            show_default="three: of the first, the middle and the last encoder",
        ),
    ] = None,
    profiles: Profiles = DEFAULT_PROFILES,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier report.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a page of pictures and tables: where spikes are, and what they cost by published accounts.

    A checkpoint's own recording (CHECKPOINT/record) is used unless --text, --dataset, --tokens or --raster ask for
    another.

    Example: [cyan]spikeconv report sdllm ramp -o report --text book.txt[/]
    """
    check_extra("report", ("matplotlib", "jinja2"))
    if text is not None and dataset is not None:
        raise SpikeconvError("Give --text or --dataset, not both.")
    chosen = profiles_of(profiles)
    check_spiking(sources or [])
    for source in sources or []:
        check_linears(source, raster)
    anew = given({"--text": text, "--dataset": dataset, "--tokens": tokens, "--raster": raster or None})
    if sources and output is None:
        output = Path(f"{sources[0].resolve().name}-report")
    if output is not None:
        check_target(output, force, RECORD)

    from spikeconv.cli.reading import recordings_of
    from spikeconv.pages.build import write_report

    read = recordings_of(
        sources or [],
        text,
        dataset,
        tokens or TOKENS,
        tuple(raster or ()),
        anew=anew,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    folder = output or Path(f"{read[0].name}-report")
    try:
        page = write_report(
            folder, [(each.recording, each.path) for each in read], chosen, force=force, track=tracker(quiet)
        )
    except OSError as error:
        raise SpikeconvError(f"Writing {folder} failed: {error.strerror or error}.") from None
    if as_json:
        print_json({"output": str(folder), "page": str(page), "measured": [each.about for each in read]})
        return
    out.print("Open [number]{page}[/]", page=page)
