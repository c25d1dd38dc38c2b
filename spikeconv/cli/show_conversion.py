"""What `convert` and `plan` print: the plan, what it will take, the summary."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spikeconv.cli.console import Printer, err, out, table

if TYPE_CHECKING:
    from spikeconv.conversion.foresee import Foreseen
    from spikeconv.conversion.pipeline import ConvertSummary
    from spikeconv.conversion.plan import Plan

__all__ = ["show_foreseen", "show_plan", "show_summary"]


Described = Sequence[tuple[str, str]]
"""Settings and calibration in words, see `conversion.described`."""


def show_plan(plan: "Plan", said: Described, path: str, to: Printer) -> None:
    """What is to be converted, what is not and why, and the Hadamard matrix of each size."""
    to.print("[title]Plan[/] for {path} ({plan.family.architecture})", path=path, plan=plan)
    if plan.assumption is not None:
        to.print("[bad]assumed:[/] {assumption}", assumption=plan.assumption)
    rows = table("To convert", "role", "linears", "out × in", "scheme", "Hadamard", text=["scheme"])
    rotations = plan.rotations()
    for (role, scheme, in_features, out_features), count in plan.roles().items():
        shape = f"{out_features} × {in_features}"
        rows.add_row(role, str(count), shape, scheme, rotations.get(in_features, "none"))
    to.show(rows)
    _show_said(said, to)
    for module, reason in plan.skipped_summary().items():
        to.print("[note]not converted:[/] {module} ({reason})", module=module, reason=reason)
    for name, reason in plan.ignored_summary().items():
        to.print("[note]ignored:[/] {name} ({reason})", name=name, reason=reason)
    to.print(
        "{linears} linears, {millions:.1f} M weights, {plan.bits_per_weight:.2f} bits each",
        linears=len(plan.jobs),
        millions=plan.weights / 1e6,
        plan=plan,
    )


def show_foreseen(foreseen: "Foreseen") -> None:
    """What a conversion will take, and what its model will compute."""
    found, place = foreseen.estimate, foreseen.output
    out.print(
        "[title]Output[/]   {place.path}: [number]{size}[/] in {files} (source: {source}); {free} are free there",
        place=place,
        size=_size(found.output_bytes),
        files=_several(found.shards, "file"),
        source=_size(found.source_bytes),
        free=_size(place.free_bytes),
    )
    peak = "not foreseen" if found.peak_bytes is None else f"at most about {_size(found.peak_bytes)}"
    out.print(
        "[title]Memory[/]   [number]{peak}[/]; most of one tensor is {size}, for {name}",
        peak=peak,
        name=found.largest[0],
        size=_size(found.largest[1]),
    )
    text = found.calibration_seconds
    out.print(
        "[title]Time[/]     [number]{seconds}[/] with {threads}{before}",
        seconds="not foreseen" if found.seconds is None else f"about {_duration(found.seconds)}",
        threads=_several(found.jobs, "thread"),
        before="" if text == 0 else f", after {_duration(text)} on a text" if text else ", and some on a text",
    )
    token = found.per_token
    becomes = (
        "whose inputs are not sent as spikes"
        if token.accumulations is None
        else f"become {_giga(token.accumulations)} signed additions of up to {token.slots} slots, with the "
        f"{token.spikes_per_input:.2f} spikes per input of Gaussian inputs"
    )
    out.print(
        "[title]A token[/]  {macs} multiply-accumulates {becomes}; {inputs} inputs are encoded, and rotated with "
        "{rotation} additions; in floating point, at {token.context} tokens: {floats}",
        macs=_giga(token.macs),
        becomes=becomes,
        inputs=f"{token.inputs:,}",
        rotation=_giga(token.rotation_additions),
        token=token,
        floats=", ".join(f"{name} {_giga(macs)}" for name, macs in token.float_macs.items()),
    )


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _giga(count: float) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.2f} M"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _show_said(said: Described, to: Printer) -> None:
    for what, settings in said:
        to.print("{what}: {settings}", what=what, settings=settings)


def show_summary(summary: "ConvertSummary", said: Described) -> None:
    """The few numbers that sum a conversion up; dampings that had to be raised are told."""
    out.print(
        "[good]Converted[/] {summary.converted} linears to {summary.bits} ({summary.sending}) in "
        "[number]{summary.seconds:.1f} s[/]: [number]{summary.bits_per_weight:.2f}[/] bits per converted weight, "
        "mean relative weight error {summary.mean_relative_error:.4f}",
        summary=summary,
    )
    _show_said(said, out)
    floats = ", ".join(f"{_size(size)} in {dtype}" for dtype, size in summary.float_bytes.items())
    out.print(
        "{before} before ({source}), {after} after: {packed} in converted linears, {floats}{hint}",
        before=_size(summary.bytes_before),
        after=_size(summary.bytes_after),
        source=", ".join(summary.source_types),
        packed=_size(summary.bytes_after - sum(summary.float_bytes.values())),
        floats=f"and what stays float, {floats}" if floats else "and nothing else",
        hint=" (--dtype bfloat16 halves that)" if "float32" in summary.float_bytes else "",
    )
    out.print("Saved to [number]{summary.output}[/]", summary=summary)
    if raised := [layer.layer for layer in summary.layers if layer.raised]:
        err.print("[note]damping was raised in layers {layers}[/]", layers=", ".join(map(str, raised)))
