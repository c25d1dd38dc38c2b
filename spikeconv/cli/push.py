"""`spikeconv push`: a checkpoint onto the model hub."""

from pathlib import Path
from typing import Annotated

import typer

from spikeconv.cli.console import err, out, print_json, table, tracker
from spikeconv.cli.options import AsJson, Quiet
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.errors import SpikeconvError
from spikeconv.sources.presets import is_hub_id

__all__ = ["push"]


def push(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] REPO", help="A converted checkpoint (the last one if omitted), and OWNER/NAME."
        ),
    ],
    private: Annotated[bool, typer.Option("--private", help="Nobody else may see the repository.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, made if there is none.", show_default="the main one")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.", show_default="the conversion's bits")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and list what would be uploaded.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a checkpoint to the model hub, checked and with a renewed model card.

    Results in `eval` and `record` stay here, and so do paths of this machine; the card says what was measured.

    Example: [cyan]spikeconv push llama2-7b-4-1.58 somebody/llama2-7b-spiking --private --dry-run[/]
    """
    if len(names) > 2:
        raise SpikeconvError("Give a checkpoint and the repository, OWNER/NAME.")
    repository = names[-1]
    if not is_hub_id(repository) or not all(repository.split("/")):
        raise SpikeconvError(f"{repository} is no repository of the hub; its name is OWNER/NAME.")
    if len(names) == 1 and (Path(repository) / "config.json").is_file():
        raise SpikeconvError(f"{repository} is a checkpoint; name the repository after it, OWNER/NAME.")

    path = chosen_checkpoint(Path(names[0]).expanduser() if len(names) == 2 else None, quiet)

    from spikeconv.checkpoint.folder import read_record
    from spikeconv.publish.push import pack, upload

    parcel = pack(path, repository, tracker(quiet))
    if parcel.licence is None:
        err.print(
            "[bad]warning:[/] no licence is known: the hub will show none; write `license: …` into the head of {card}",
            card=path / "README.md",
        )
    if parcel.card_is_edited and not quiet:
        err.print("[note]README.md was edited, and is uploaded as it is[/]")
    url = None
    if not dry_run:
        bits = read_record(path).get("bits_per_weight")
        said = message or f"Spike-driven, {bits:.2f} bits per converted weight"
        url = upload(parcel, repository, private=private, revision=revision, message=said)
    if as_json:
        print_json(
            {
                "checkpoint": str(path),
                "repository": repository,
                "revision": revision,
                "url": url,
                "licence": parcel.licence,
                "card_is_edited": parcel.card_is_edited,
                "files": {file.name: file.size for file in parcel.files},
                "bytes": parcel.size,
                "left_out": list(parcel.left_out),
            }
        )
        return
    rows = table(f"{repository}", "file", "bytes")
    for file in parcel.files:
        rows.add_row(file.name, f"{file.size:,}")
    out.show(rows)
    left = f"; left out: {', '.join(parcel.left_out)}" if parcel.left_out else ""
    out.print("{count} files, {size:,} bytes{left}", count=len(parcel.files), size=parcel.size, left=left)
    if url is None:
        out.print("[note]nothing was uploaded (--dry-run)[/]")
    else:
        out.print("[good]Uploaded[/] to {url}", url=url)
