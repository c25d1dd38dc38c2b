"""What `convert` prints: the plan, a line for each layer, the summary."""

from typing import TYPE_CHECKING

from spikeconv.cli.console import err, out, table

if TYPE_CHECKING:
    from spikeconv.conversion.pipeline import ConvertSummary, LayerResult
    from spikeconv.conversion.plan import Plan

__all__ = ["show_layer", "show_plan", "show_summary"]


def show_plan(plan: "Plan", path: str) -> None:
    """What is converted, what is not and why, and the Hadamard matrix of each size."""
    err.print("[title]Plan[/] for {path} ({plan.family.architecture})", path=path, plan=plan)
    rows = table("Converted", "role", "linears", "out × in", "scheme", "Hadamard")
    rotations = plan.rotations()
    for (role, scheme, in_features, out_features), count in plan.roles().items():
        shape = f"{out_features} × {in_features}"
        rows.add_row(role, str(count), shape, scheme, rotations.get(in_features, "none"))
    err.show(rows)
    for module, reason in plan.skipped_summary().items():
        err.print("[note]not converted:[/] {module} ({reason})", module=module, reason=reason)
    for name, reason in plan.ignored_summary().items():
        err.print("[note]ignored:[/] {name} ({reason})", name=name, reason=reason)
    err.print(
        "{linears} linears, {millions:.1f} M weights, {plan.bits_per_weight:.2f} bits each",
        linears=len(plan.jobs),
        millions=plan.weights / 1e6,
        plan=plan,
    )


def show_layer(result: "LayerResult") -> None:
    """One finished decoder layer: relative error by role, of its weights and of the outputs of calibrated ones."""
    outputs = f"  output error: {_by_role(result.output_error)}" if result.output_error else ""
    raised = f"  damping raised: {_by_role(result.raised)}" if result.raised else ""
    err.print(
        "[note]layer {result.layer:3d}[/]  relative weight error: {errors}{outputs}{raised}",
        result=result,
        errors=_by_role(result.relative_error),
        outputs=outputs,
        raised=raised,
    )


def _by_role(values: dict[str, float]) -> str:
    return "  ".join(f"{role} {value:.4f}" for role, value in values.items())


def show_summary(summary: "ConvertSummary") -> None:
    """The few numbers that sum a conversion up."""
    out.print(
        "[good]Converted[/] {summary.converted} linears to {summary.bits} ({summary.sending}) in "
        "[number]{summary.seconds:.1f} s[/]: [number]{summary.bits_per_weight:.2f}[/] bits per converted weight, "
        "mean relative weight error {summary.mean_relative_error:.4f}, {before:.1f} MB before, {after:.1f} MB after\n"
        "Saved to [number]{summary.output}[/]",
        summary=summary,
        before=summary.bytes_before / 1e6,
        after=summary.bytes_after / 1e6,
    )
