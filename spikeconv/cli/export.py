"""`spikeconv export`: integers and events for other tool chains."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikeconv.cli.console import err, out, print_json
from spikeconv.cli.early import given
from spikeconv.cli.options import AsJson, Checkpoint, Device, Quiet, TrustRemoteCode
from spikeconv.errors import SpikeconvError

__all__ = ["export"]


def export(
    checkpoint: Checkpoint = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="CHECKPOINT-FORMAT.npz")
    ] = None,
    form: Annotated[
        Literal["weights", "events"],
        typer.Option("--format", help="weights: integers and scales; events: address events of a text."),
    ] = "weights",
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", help="events: linear (name or pattern).", show_default="that of the first layer's q"),
    ] = None,
    order: Annotated[
        Literal["sync", "async"] | None,
        typer.Option(help="events: all neurons slot by slot, or each count at once.", show_default="sync"),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="events: UTF-8 text to read.", show_default="a bundled public-domain sample")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="events: tokens of it.", show_default="64")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write integers and scales, or the spikes of a text as address events, into a NumPy file.

    Example: [cyan]spikeconv export --format events --layer '*.0.mlp.down_proj' -o events.npz[/]
    """
    of_events = {"--layer": layers, "--order": order, "--text": text, "--tokens": tokens}
    if form != "events" and (named := given(of_events)):
        raise SpikeconvError(f"{named[0]} is for --format events.")

    from spikeconv.checkpoint.folder import resolve_checkpoint

    path = resolve_checkpoint(checkpoint)
    target = output or Path(f"{path.name}-{form}.npz")
    if target.suffix != ".npz":
        raise SpikeconvError(f"{target} must end in .npz, which it will be.")
    if target.exists() and not force:
        raise SpikeconvError(f"{target} exists; --force replaces it.")

    from spikeconv.data.texts import text_or_sample
    from spikeconv.data.tokens import text_ids
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.export.arrays import write_npz
    from spikeconv.export.events import event_arrays, spiking_linears
    from spikeconv.export.weights import weight_arrays

    if not quiet:
        err.print("[note]checkpoint {path}[/]", path=path)
    loaded = load_checkpoint(path, device=device, trust_remote_code=trust_remote_code)
    model = loaded.model
    if form == "weights":
        arrays = weight_arrays(model)
    else:
        content, _ = text_or_sample(text)
        ids = text_ids(model, loaded.tokenizer, content)[: tokens or 64].to(model.device)
        if not len(ids):
            raise SpikeconvError("The text is empty; give one with at least one token.")
        chosen = spiking_linears(model, layers)
        arrays = event_arrays(model, chosen, lambda: model(input_ids=ids[None], use_cache=False), order or "sync")
    try:
        written = write_npz(target, arrays)
    except OSError as error:
        raise SpikeconvError(f"Writing {target} failed: {error.strerror or error}.") from None
    if as_json:
        print_json({"output": str(target), "format": form, "arrays": written, "bytes": target.stat().st_size})
        return
    out.print("[good]Exported[/] {written} arrays to [number]{target}[/]", written=written, target=target)
