"""`spikeconv report-firing-rate`."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spikeconv.cli.console import out, print_json, table
from spikeconv.cli.failure import convenience
from spikeconv.cli.options import AsJson, Checkpoint, Device, Dtype, Quiet, Recorded, SampleText, TrustRemoteCode
from spikeconv.cli.reading import read_spikes
from spikeconv.errors import SpikeconvError

if TYPE_CHECKING:
    from spikeconv.report.firing_rate import FiringReport, TotalFiring
    from spikeconv.report.inputs import EncodedInput
    from spikeconv.report.spikelm_energy import TableRow
    from spikeconv.report.traffic import Traffic

__all__ = ["report_firing_rate"]

TABLES = {"spikegpt": "spikegpt-table1", "spikelm": "spikelm-table5"}
"""What a paper's own table is computed from, in `configs/energy/`."""


def report_firing_rate(
    checkpoint: Checkpoint = None,
    text: SampleText = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to read at most.")] = 1024,
    summary: Annotated[bool, typer.Option("--summary", help="Leave the table of single layers out.")] = False,
    save: Annotated[
        bool,
        typer.Option("--save", help="Note the shares of zeros in the checkpoint, to choose layouts at load."),
    ] = False,
    energy: Annotated[
        Literal["spikerwkv", "spikegpt", "spikelm"] | None,
        typer.Option(help="Also picojoules, as that paper computes them."),
    ] = None,
    recording: Recorded = None,
    firing: Annotated[
        str | None,
        typer.Option(
            help="Also latency and traffic of neurons that fire sync (slot by slot), async (a count at once), or N "
            "slots at a time.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count the spikes of every converted linear on real text, and the operations they cost.

    Example: [cyan]spikeconv report-firing-rate --tokens 2048[/]
    """
    if recording is not None and save:
        raise SpikeconvError("A recording has been made: leave --save out.")

    from spikeconv.report.traffic import parse_firing, traffic

    fired = None if firing is None else parse_firing(firing)
    options: Any = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "quiet": quiet}
    read = read_spikes(recording, checkpoint, text, tokens, **options, connections=as_json)  # NeuroBench's keys

    from spikeconv.checkpoint.folder import save_zero_shares
    from spikeconv.report.energy import spikerwkv_report
    from spikeconv.report.firing_rate import firing_report
    from spikeconv.report.inputs import encoded_inputs
    from spikeconv.report.neurobench import neurobench_keys
    from spikeconv.report.spikegpt_energy import TableOne, corrected, table_one
    from spikeconv.report.spikelm_energy import SpikeLmProfile, table_five, this_model
    from spikeconv.sources.presets import energy_constants

    recorded = read.record
    report = firing_report(recorded)
    if save and read.path is not None:
        with convenience("the shares of zeros are not noted in the checkpoint"):
            save_zero_shares(read.path, {layer.name: layer.zero_share for layer in report.layers})
    inputs = encoded_inputs(recorded)
    sent = [
        replace(flow, role=each.roles)
        for each in (inputs if fired is not None else ())
        if (flow := traffic(each.record, fired or "sync")) is not None
    ]
    picojoules: dict[str, dict[str, Any]] = {}
    if energy == "spikerwkv":
        picojoules = spikerwkv_report(report)
    elif energy == "spikegpt":
        profile = TableOne.parse(energy_constants(TABLES[energy]))
        printed = {part: {"GPT": gpt, "SpikeGPT": spiking} for part, (gpt, spiking) in table_one(profile).items()}
        found = corrected(report, profile)
        picojoules = {**printed, "this model": found}
    elif energy == "spikelm":
        constants = SpikeLmProfile.parse(energy_constants(TABLES[energy]))
        lines = {"table 5": table_five(constants), "this model": this_model(report, constants)}
        picojoules = {f"{part}: {row.name}": row._asdict() for part, rows in lines.items() for row in rows}
    if as_json:
        encoders = [{"linears": each.members, "roles": each.roles} for each in inputs]
        more: dict[str, Any] = {"encoders": encoders, "neurobench": neurobench_keys(recorded)}
        more |= {"energy": {energy: picojoules}} if energy else {}
        more |= {} if firing is None else {"firing": {firing: [asdict(each) for each in sent]}}
        print_json(report.to_dict() | more | {"measured": read.about})
        return
    show_report(report, inputs, layers=not summary)
    if firing is not None:
        show_traffic(firing, sent)
    if energy == "spikerwkv":
        show_energy(picojoules)
    elif energy == "spikegpt":
        show_table_one(printed, found, report.total.tokens)
    elif energy == "spikelm":
        show_table_five(lines, report.total.tokens)


def show_traffic(firing: str, sent: "list[Traffic]") -> None:
    """Latency and spikes in flight, by role: of one token's input vector, the mean over tokens."""
    how = firing if firing in ("sync", "async") else f"{firing} slots at a time"
    rows = table(f"\nFiring {how}: spikes of one input vector", "role", "steps", "mean a step", "busiest step")
    for role in dict.fromkeys(each.role for each in sent):
        those = [each for each in sent if each.role == role]
        means = (sum(values) / len(those) for values in ([each.mean for each in those], [each.peak for each in those]))
        rows.add_row(role, str(max(each.latency for each in those)), *(f"{value:,.1f}" for value in means))
    out.show(rows)


def show_table_five(lines: "dict[str, list[TableRow]]", tokens: int) -> None:
    """SpikeLM's table 5 and 7, and the model at hand by the same formulas."""
    titles = {
        "table 5": "\nSpikeLM's tables 5 and 7: millijoules of one sentence of 128 tokens (compute only)",
        "this model": f"\nThis model over {tokens} tokens, by the same formulas; attention's products count as spikes",
    }

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    for part, rows in lines.items():
        shown = table(titles[part], "model", "fp32 printed", "fp32", "fp16 printed", "fp16", "spikes per input")
        for row in rows:
            shown.add_row(row.name, *map(cell, row[1:]))
        out.show(shown)


def show_table_one(printed: dict[str, dict[str, float]], found: dict[str, float], tokens: int) -> None:
    """SpikeGPT's table 1, and below what the model at hand does, with the same constants."""
    title = "\nSpikeGPT's table 1, by its formulas: picojoules of one block (compute only)"
    rows = table(title, "part", "GPT", "SpikeGPT")
    for part, row in printed.items():
        rows.add_row(part, *(f"{value:.3g}" if value else "–" for value in row.values()))
    rows.add_row("overall", *(f"{sum(row[model] for row in printed.values()):.3g}" for model in ("GPT", "SpikeGPT")))
    out.show(rows)
    title = f"\nThis model over {tokens} tokens, with its constants and everything counted"
    rows = table(title, "part", "picojoules")
    for part, value in found.items():
        rows.add_row(part, f"{value:.3g}")
    rows.add_row("overall", f"{sum(found.values()):.3g}")
    out.show(rows)


def show_energy(picojoules: dict[str, dict[str, float]]) -> None:
    """SpikeRWKV's energies of each role, for the three readings of an event."""
    readings = [name for name in ("graded", "bits", "unary") if any(name in row for row in picojoules.values())]
    columns = [f"{name} (× less)" for name in readings]
    rows = table("\nPicojoules for one output and token, as in SpikeRWKV (compute only)", "role", "ANN", *columns)
    for role, row in picojoules.items():
        cells = [f"{row[name]:.0f} ({row['ann'] / row[name]:.2f})" if row.get(name) else "n/a" for name in readings]
        rows.add_row(role, f"{row['ann']:.0f}", *cells)
    out.show(rows)


def show_report(report: "FiringReport", inputs: "list[EncodedInput]", *, layers: bool) -> None:
    """Rates per encoder (if wanted) and role, then totals and operation counts.

    Linears that share an encoder, as q, k and v, receive the same spikes: they are one row.
    """
    from spikeconv.report.inputs import roles_of

    columns = ("T'", "mean |count|", "rate", "zero counts", "spikes/token")
    rows = table("Per encoder", "first linear", "read by", *columns, text=["read by"])
    by_name = {layer.name: layer for layer in report.layers}
    for each in inputs:
        layer = by_name[each.name]
        rows.add_row(
            each.name,
            each.roles,
            str(layer.virtual_steps),
            f"{layer.mean_count:.3f}",
            _rate(layer.firing_rate),
            f"{layer.zero_share:.1%}",
            f"{layer.spikes_per_token:.0f}",
        )
    if layers and report.layers:
        out.show(rows)
    rows = table("\nPer role (weighted by multiply-accumulates)", "role", *columns)
    for roles in roles_of(inputs):
        means = report.means(name for each in inputs if each.roles == roles for name in each.members)
        rows.add_row(
            roles,
            f"{means['virtual_steps']:g}",
            f"{means['mean_count']:.3f}",
            _rate(means["firing_rate"]),
            f"{means['zero_share']:.1%}",
            f"{means['spikes_per_token']:.0f}",
        )
    if report.layers:
        out.show(rows)
        show_total(report.total)
    stays_float = ", ".join(f"{name} {macs / 1e9:.2f}" for name, macs in report.total.float_macs.items())
    out.print("  stays in floating point: {macs} G multiply-accumulates", macs=stays_float)
    if report.neuron_rate is not None:
        out.print(
            "  its own neurons, at {places} places, fire at [number]{rate:.3f}[/] of the tokens ({least:.3f} to "
            "{most:.3f})",
            places=len(report.neurons),
            rate=report.neuron_rate,
            least=min(report.neurons.values()),
            most=max(report.neurons.values()),
        )
    for kind, firing in report.cache.items():
        out.print(
            "  {what}: firing rate [number]{firing.firing_rate:.3f}[/], {firing.spikes_per_input:.2f} "
            "spikes per input in {firing.virtual_steps} slots, {firing.zero_share:.1%} zero counts, "
            "{firing.bytes_per_token} bytes a token "
            "({firing.bfloat16_bytes_per_token} in bfloat16)\n    {macs:.2f} G multiply-accumulates of "
            "attention become {accumulations:.2f} G signed additions "
            "(+ {scalings:.2f} G multiplications by scales, {additions:.3f} G additions and "
            "{shifts:.3f} G shifts of sums)",
            what="keys" if kind == "k" else "values",
            firing=firing,
            macs=firing.macs / 1e9,
            accumulations=firing.accumulations / 1e9,
            scalings=firing.scalings / 1e9,
            additions=firing.membrane_additions / 1e9,
            shifts=firing.membrane_shifts / 1e9,
        )


def show_total(total: "TotalFiring") -> None:
    """All spiking linears together."""
    out.print(
        "\n[title]Total[/] of {total.linears} linears over {total.tokens} tokens: firing rate [number]{rate}[/], "
        "{total.spikes_per_input:.2f} spikes per input in {total.slots} slots, {total.zero_share:.1%} zero counts\n"
        "  {macs:.2f} G multiply-accumulates become {accumulations:.2f} G signed additions "
        "(+ {rotations:.2f} G additions of the Hadamard transforms, {additions:.3f} G additions and "
        "{shifts:.3f} G shifts of membranes)\n"
        "  weighted as in SDLLM: {flops:.2f} GFLOPs spiking, {dense_flops:.2f} GFLOPs "
        "as dense integers of equal width, {macs:.2f} G in float (an operation of w by a bits counts as wa / 128 of a "
        "float one, a spike as two bits, or one if binary: no time, and no energy, which `spikeconv report-energy` "
        "estimates)\n"
        "  packed weights {megabytes:.1f} MB",
        total=total,
        rate=_rate(total.firing_rate),
        macs=total.macs / 1e9,
        accumulations=total.accumulations / 1e9,
        rotations=total.rotation_additions / 1e9,
        additions=total.membrane_additions / 1e9,
        shifts=total.membrane_shifts / 1e9,
        flops=total.flops / 1e9,
        dense_flops=total.dense_flops / 1e9,
        megabytes=total.weight_bytes / 1e6,
    )


def _rate(rate: float | None) -> str:
    return "n/a" if rate is None else f"{rate:.3f}"
