"""`spikeconv export`: integers, events and graphs for other tool chains."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spikeconv.cli.console import err, out, print_json
from spikeconv.cli.early import check_linears, given
from spikeconv.cli.measured import measured
from spikeconv.cli.options import AsJson, Checkpoint, Device, Quiet, TrustRemoteCode
from spikeconv.errors import SpikeconvError

__all__ = ["export"]

Form = Literal["weights", "events", "nir"]

SUFFIXES: dict[Form, tuple[str, ...]] = {"weights": (".npz",), "events": (".npz", ".parquet"), "nir": (".nir",)}
"""What a file of a format may be called, the first unless it is said."""

PACKAGES = {
    ".nir": ("nir", "--format nir", "pip install 'spikeconv[nir]'"),
    ".parquet": ("pyarrow", "A .parquet file", "pip install pyarrow"),
}
"""By suffix: the package that writes it, what needs it, how to get it."""


def export(
    checkpoint: Checkpoint = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; events: .npz or .parquet.",
            show_default="CHECKPOINT-FORMAT.npz, CHECKPOINT.nir",
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="weights: integers and scales; events: address events of a text; nir: a graph of chosen linears, with "
            "the events of a text and what comes of them.",
        ),
    ] = "weights",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", help="events, nir: linear (name or pattern).", show_default="that of the first layer's q"
        ),
    ] = None,
    order: Annotated[
        Literal["sync", "async"] | None,
        typer.Option(help="events: all neurons slot by slot, or each count at once.", show_default="sync"),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="events, nir: UTF-8 text to read.", show_default="a bundled public-domain sample"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="events, nir: tokens of it.", show_default="64")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier file.")] = False,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write integers and scales, the spikes of a text as address events, or linears as a NIR graph, into a file.

    Example: [cyan]spikeconv export --format nir --layer '*.0.mlp.down_proj' -o down.nir[/]
    """
    of_events = {"--order": order}
    of_text = {"--layer": layers, "--text": text, "--tokens": tokens}
    if form != "events" and (beside := given(of_events)):
        raise SpikeconvError(f"{beside[0]} is for --format events.")
    if form == "weights" and (beside := given(of_text)):
        raise SpikeconvError(f"{beside[0]} is for --format events and --format nir.")
    suffix = check_output(form, output)

    from spikeconv.checkpoint.folder import resolve_checkpoint

    path = resolve_checkpoint(checkpoint)
    target = output or Path(f"{path.name}{suffix}" if form == "nir" else f"{path.name}-{form}{suffix}")
    check_linears(path, layers)
    if target.exists() and not force:
        raise SpikeconvError(f"{target} exists; --force replaces it.")

    from spikeconv.checkpoint.folder import checkpoint_digest
    from spikeconv.data.texts import text_or_sample
    from spikeconv.data.tokens import text_ids
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.export.events import event_arrays
    from spikeconv.export.files import write_npz, write_parquet
    from spikeconv.export.trains import kept_trains, spiking_linears
    from spikeconv.export.weights import weight_arrays
    from spikeconv.record.about import about_text
    from spikeconv.versions import versions

    if not quiet:
        err.print("[note]checkpoint {path}[/]", path=path)
    loaded = load_checkpoint(path, device=device, trust_remote_code=trust_remote_code)
    model = loaded.model
    trains, about = {}, {}
    if form != "weights":
        content, label = text_or_sample(text)
        ids = text_ids(model, loaded.tokenizer, content)[: tokens or 64].to(model.device)
        if not len(ids):
            raise SpikeconvError("The text is empty; give one with at least one token.")
        trains = kept_trains(model, spiking_linears(model, layers), lambda: model(input_ids=ids[None], use_cache=False))
        about = {
            "checkpoint": {"name": path.name, "sha256": checkpoint_digest(path)},
            "text": {**about_text(content, label), "tokens": len(ids)},
            "versions": versions(["nir", "torch", "transformers"]),
        }
    try:
        if form == "nir":
            from spikeconv.export.graph import nir_graph, write_nir

            written = write_nir(target, nir_graph(model, trains, about))
        elif suffix == ".parquet":
            written = write_parquet(target, event_arrays(trains, order or "sync"))
        else:
            written = write_npz(target, event_arrays(trains, order or "sync") if trains else weight_arrays(model))
    except OSError as error:
        raise SpikeconvError(f"Writing {target} failed: {error.strerror or error}.") from None
    unit = {".nir": "nodes", ".parquet": "columns"}.get(suffix, "arrays")
    if as_json:
        size = target.stat().st_size
        what: dict[str, Any] = {"format": form, "layers": layers, "order": order, "text": about.get("text")}
        how = measured(path, device=device, **what)
        found = {"output": str(target), "format": form, "linears": list(trains), unit: written, "bytes": size}
        print_json({**found, **how})
        return
    out.print("[good]Exported[/] {written} {unit} to [number]{target}[/]", written=written, unit=unit, target=target)


def check_output(form: Form, output: Path | None) -> str:
    """The suffix of the file that will be written.

    Raises:
        SpikeconvError: it is none of the format, or the package that writes it is not there.
    """
    known = SUFFIXES[form]
    suffix = known[0] if output is None else output.suffix
    if suffix not in known:
        raise SpikeconvError(f"{output} must end in {' or '.join(known)}, which it will be.")
    package, what, command = PACKAGES.get(suffix, ("numpy", "", ""))
    if find_spec(package) is None:
        raise SpikeconvError(f"{what} needs the package {package}: {command}.")
    return suffix
