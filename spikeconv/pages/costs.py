"""Pictures of costs: energy by part, and quality against spikes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from spikeconv.pages.style import COLOURS, GRID, HATCHES, MARKERS, PAPER, QUIET, new_figure
from spikeconv.pages.words import joules
from spikeconv.report.model import ModelReport
from spikeconv.report.profiles import Account, EnergyLine

__all__ = ["Point", "draw_energy", "draw_quality"]

MOST_PARTS = 10
"""With a look of their own; the smallest of more are one."""
UNITS = (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3), ("pJ", 1.0))
OTHERS = "other roles"
LOOKS = [{"color": colour, "hatch": hatch} for hatch in HATCHES[:2] for colour in COLOURS[:7]]
SCENARIOS = ("float model", "integers", "integers,\nno zeros", "spikes")


@dataclass(frozen=True)
class Point:
    """One checkpoint in a plot of quality.

    Attributes:
        name: of the checkpoint.
        spikes: of an input.
        value: what was scored.
        error: its standard error; None if not known.
    """

    name: str
    spikes: float
    value: float
    error: float | None = None


def _shown(part: str, report: ModelReport, account: Account) -> str:
    """The part, or `OTHERS` if it spikes and there are too many."""
    spiking = [work.part for work in report.works if work.is_spiking]
    if part not in spiking or len(account.lines) <= MOST_PARTS:
        return part
    costs = sorted((line.spiking, line.part) for line in account.lines if line.part in spiking)
    small = {name for _, name in costs[: len(account.lines) - MOST_PARTS + 1]}
    return OTHERS if part in small else part


def _scenarios(line: EnergyLine) -> tuple[float, ...]:
    return line.float_model, line.integers, line.sparse_integers or 0.0, line.spiking


def draw_energy(report: ModelReport, profile: str) -> Figure:
    """Four bars, stacked by part: the float model, the same integers dense and without zeros, spikes. Of one token."""
    account, tokens = report.energy[profile].whole, report.totals.tokens
    spiking = {work.part for work in report.works if work.is_spiking}
    parts: dict[str, list[float]] = {}
    for line in account.lines:
        name = _shown(line.part, report, account)
        sums = parts.setdefault(name, [0.0] * len(SCENARIOS))
        parts[name] = [total + value / tokens for total, value in zip(sums, _scenarios(line), strict=True)]
    totals = [sum(values[row] for values in parts.values()) for row in range(len(SCENARIOS))]
    unit, size = next(((unit, size) for unit, size in UNITS if max(totals) >= size), UNITS[-1])
    figure = new_figure(310)
    axes = figure.add_subplot()
    left = [0.0] * len(SCENARIOS)
    looks, greys = iter(LOOKS), iter(HATCHES[1:] * 2)
    for name, values in parts.items():
        fires = name in spiking or name == OTHERS
        style: Any = next(looks) if fires else {"color": COLOURS[7], "hatch": next(greys)}
        label = name if fires else f"{name} (float)"
        widths = [value / size for value in values]
        axes.barh(SCENARIOS, widths, 0.66, left=left, edgecolor=PAPER, linewidth=0.6, label=label, **style)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    known = account.total.sparse_integers is not None
    for row, total in enumerate(totals):
        text = joules(total) if known or row != 2 else "not known"
        axes.annotate(text, (left[row], row), (4, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set_title(f"Energy of a token by {profile}").set_parse_math(False)
    axes.set_xlabel(f"{unit} for a token, computed")
    axes.set_xlim(0, 1.24 * max(left))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0, handlelength=1.3)
    return figure


def draw_quality(points: Sequence[Point], title: str, what: str, baseline: float | None) -> Figure:
    """A score of several checkpoints against the spikes that they send."""
    figure = new_figure(300 + 16 * len(points))
    axes = figure.add_subplot()
    for index, point in enumerate(points):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        if point.error is not None:
            axes.errorbar([point.spikes], [point.value], point.error, color=colour, linewidth=1.2, capsize=3)
        place = [point.spikes], [point.value]
        axes.plot(*place, color=colour, marker=marker, markersize=8, linestyle="", label=_plain(point.name))
    if baseline is not None:
        axes.axhline(baseline, color=QUIET, linestyle="--", linewidth=1, label="float model")
    axes.set_title(title).set_parse_math(False)
    axes.set_xlabel("spikes of an input")
    axes.set_ylabel(what)
    axes.margins(y=0.12)
    axes.set_xlim(0, 1.12 * max(point.spikes for point in points) or 1)
    axes.grid(color=GRID)
    legend = figure.legend(loc="outside lower left", ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _plain(name: str) -> str:
    """A label that a legend shows: it leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name
