"""`spikeconv bench`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spikeconv.cli.console import out, print_json, table, tracker
from spikeconv.cli.fallbacks import show_fallbacks, silence_fallbacks
from spikeconv.cli.measured import converted, installed
from spikeconv.cli.options import AsJson, Checkpoint, Device, MadeFrom, Quiet
from spikeconv.cli.reading import chosen_checkpoint
from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean

if TYPE_CHECKING:
    from spikeconv.bench.kernels import KernelRow
    from spikeconv.bench.limits import Limits
    from spikeconv.bench.models import ModelParts, ModelRow

__all__ = ["bench"]


def bench(
    checkpoint: Checkpoint = None,
    shapes: Annotated[str, typer.Option(help="Models whose layers are measured, with commas.")] = "smollm2-135m",
    tokens: Annotated[str, typer.Option(help="Tokens in one call, with commas.")] = "1,16,256",
    nonzero: Annotated[str, typer.Option(help="Shares of non-zero counts for events, with commas.")] = "0.8,0.3,0.1",
    cached: Annotated[str, typer.Option(help="Tokens in a cache of keys and values, with commas.")] = "512,2048",
    kernels: Annotated[bool, typer.Option(help="Measure the kernels.")] = True,
    model: Annotated[bool, typer.Option(help="Measure the checkpoint against its float source.")] = False,
    made_from: MadeFrom = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each candidate is measured.")] = 0.3,
    device: Device = "cpu",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the native kernels against this machine's limits and torch's own products; with --model, a whole model.

    Example: [cyan]spikeconv bench --shapes llama2-7b --tokens 1,256[/]
    """
    from spikeconv.bench.shapes import CACHES, SHAPES

    for name in shapes.split(","):
        if name not in SHAPES:
            hint = did_you_mean(name, SHAPES)
            raise SpikeconvError(f"Unknown shapes {name!r}.{hint} Choose from {', '.join(SHAPES)}.")
    caches = [CACHES[name] for name in shapes.split(",") if name in CACHES]
    layers = [layer for name in shapes.split(",") for layer in SHAPES[name]]
    counts, shares = _numbers("--tokens", tokens, int), _numbers("--nonzero", nonzero, float)
    lengths = [int(n) for n in _numbers("--cached", cached, int)]
    path = chosen_checkpoint(checkpoint, quiet) if model else None

    from spikeconv.bench.attention import bench_attention
    from spikeconv.bench.kernels import bench_kernels
    from spikeconv.bench.limits import measure_limits
    from spikeconv.bench.models import bench_model
    from spikeconv.loading import find_device
    from spikeconv.sources.resolve import resolve_source

    where = str(find_device(device))
    limits = measure_limits(seconds, where)
    rows: list[KernelRow] = []
    if kernels:
        for layer in tracker(quiet)(layers, "measuring", len(layers)):
            rows += bench_kernels([layer], limits, [int(n) for n in counts], shares, seconds)
        rows += bench_attention(caches, limits, lengths, seconds)
    lost: list[str] = []
    models: list[ModelRow] = []
    parts: list[ModelParts] = []
    if path is not None:
        silence_fallbacks()
        source = None if made_from is None else resolve_source(made_from)
        models, parts = bench_model(
            path, source, seconds=seconds, device=where, on_load=lambda model: lost.extend(show_fallbacks(model))
        )
    if as_json:
        print_json(
            {
                "limits": asdict(limits),
                "kernels": [asdict(row) for row in rows],
                "models": [asdict(m) for m in models],
                "engine": [asdict(each) for each in parts],
                "fallbacks": lost,
                "measured": {
                    "shapes": shapes.split(","),
                    "seconds": seconds,
                    "device": where,
                    **({} if path is None else {**converted(path), "source": made_from}),
                    "versions": installed(),
                },
            }
        )
        return
    show(limits, rows, models, parts)


def _numbers(option: str, text: str, kind: type) -> list[float]:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) <= 0 or (kind is float and max(values) > 1):
        limits = "numbers above 0 and up to 1" if kind is float else "whole numbers from 1 up"
        raise SpikeconvError(f"{option} must be {limits}, with commas, not {text!r}.")
    return values


def show(limits: "Limits", rows: "list[KernelRow]", models: "list[ModelRow]", parts: "list[ModelParts]") -> None:
    """Tables of everything that was measured."""
    out.print("[title]{limits}[/]", limits=limits)
    if rows:
        peers = list(dict.fromkeys(name for row in rows for name in row.ratios))
        result = table(
            "kernels (ratios: the other's time over ours)",
            "op",
            "layer",
            "tokens",
            "non-zero",
            "µs",
            "of limit",
            *peers,
            text=["layer"],
        )
        for row in rows:
            share = f"{row.fraction:.0%} {row.limit}"
            ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in peers]
            result.add_row(
                row.op, row.shape, str(row.tokens), f"{row.nonzero:g}", f"{row.seconds * 1e6:.1f}", share, *ratios
            )
        out.show(result)
    if models:
        result = table("model", "run", "model", "tokens/s", "× HF fp32", text=["model"])
        for entry in models:
            result.add_row(entry.run, entry.model, f"{entry.tokens_per_second:.1f}", f"{entry.ratio:.2f}")
        out.show(result)
    if parts:
        result = table("the engine (shares of its own time)", "run", "ms", *parts[0].shares)
        for each in parts:
            result.add_row(each.run, f"{each.milliseconds:.2f}", *(f"{share:.0%}" for share in each.shares.values()))
        out.show(result)
