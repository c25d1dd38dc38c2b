"""The section of a model card on what was measured: spikes of a recording, energies, results of evaluations."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from spikeconv.comparison.columns import Column
from spikeconv.comparison.rows import question_of, score_of
from spikeconv.evaluate.stored import PERPLEXITY, Stored
from spikeconv.report.firing_rate import firing_report
from spikeconv.report.profiles import EnergyProfile, account

__all__ = ["measured_section"]


def measured_section(column: Column, profiles: Mapping[str, EnergyProfile]) -> str:
    """Markdown, or nothing where nothing was measured.

    Args:
        column: of the checkpoint, with what is stored beside it.
        profiles: energy profiles by name.
    """
    parts = [*_spikes(column), *_energies(column, profiles), *_results(column)]
    return "## Measured\n\n" + "\n\n".join(parts) + "\n\n" if parts else ""


def _spikes(column: Column) -> Iterator[str]:
    if column.recording is None:
        return
    report, text = firing_report(column.recording.record), column.recording.about["text"] or {}
    limit = f", {text['limit']} documents" if text.get("limit") else ""
    what = _public(text.get("what", "unknown"))
    yield f"Spikes of {column.tokens:,} tokens ({what}{limit}), counted with `spikeconv record`:"
    rows = ["| linears | T' | spikes per input | firing rate | zero counts |", "|---|--:|--:|--:|--:|"]
    roles = report.by_role() if report.layers else {}
    total = report.total
    everything = {
        "virtual_steps": float(total.slots),
        "spikes_per_input": total.spikes_per_input,
        "firing_rate": total.firing_rate,
        "zero_share": total.zero_share,
    }
    for role, means in {**roles, "all": everything}.items():
        rate = means["firing_rate"]
        rows.append(
            f"| {role} | {means['virtual_steps']:g} | {means['spikes_per_input']:.3f} | "
            f"{'sent whole' if rate is None else f'{rate:.3f}'} | {100 * (means['zero_share'] or 0):.1f} % |"
        )
    if roles:
        yield "\n".join(rows)
    if total.macs:
        yield (
            f"For one token {total.macs / total.tokens / 1e6:.4g} M multiply-accumulates become "
            f"{total.accumulations / total.tokens / 1e6:.4g} M signed additions; "
            f"{sum(total.float_macs.values()) / total.tokens / 1e6:.4g} M stay in floating point."
        )


def _energies(column: Column, profiles: Mapping[str, EnergyProfile]) -> Iterator[str]:
    if column.work is None:
        return
    yield "Energy by published accounts, µJ a token: operations times constants, nothing was measured on a chip."
    rows = ["| account | float | dense integers | those that skip zeros | spikes |", "|---|--:|--:|--:|--:|"]
    for name, profile in profiles.items():
        total = account(column.work, profile).total
        values = (total.float_model, total.integers, total.sparse_integers, total.spiking)
        cells = ("–" if value is None else f"{value / column.tokens / 1e6:,.4g}" for value in values)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    yield "\n".join(rows)
    yield "\n".join(f"* {name}: {profile.source}; {profile.node}." for name, profile in profiles.items())


def _results(column: Column) -> Iterator[str]:
    if not column.results:
        return
    floats: dict[str, Stored] = {}
    for each in (stored for results in column.baselines.values() for stored in results):
        floats.setdefault(each.question, each)
    rows = ["| | float | spiking |", "|---|--:|--:|"]
    for question, each in column.results.items():
        rows.append(f"| {question_of(each)} | {_value(floats.get(question))} | {_value(each)} |")
    yield "Accuracies in per cent (`spikeconv eval`) and perplexities (`spikeconv perplexity`):"
    yield "\n".join(rows)


def _public(text: str) -> str:
    """What was read, of a file the last name."""
    return PurePath(text).name if PurePath(text).is_absolute() or Path(text).is_file() else text


def _value(stored: Stored | None) -> str:
    if stored is None:
        return "–"
    return f"{stored.value:.4g}" if stored.name == PERPLEXITY else score_of(stored).text
