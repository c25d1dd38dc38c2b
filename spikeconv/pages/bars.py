"""Pictures of shares: histograms of counts and potentials, traffic of codes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spikeconv.pages.style import COLOURS, GRID, HATCHES, LINES, MARKERS, new_figure
from spikeconv.report.distributions import Distribution, Encoded
from spikeconv.report.traffic import CodeTraffic

__all__ = ["draw_bursts", "draw_counts", "draw_encoders", "draw_slots"]

PANEL = 140
TAIL = 2e-4
"""Share of the counts at each end that a picture leaves out where they are many."""
MANY = 40
"""Counts that are bars of their own; more are a filled line."""
MOST_BURSTS = 8


def draw_counts(counts: Mapping[str, Distribution], title: str) -> Figure:
    """The counts of each role, and beside them the Gaussian of the same mean and deviation."""
    rows = -(-len(counts) // 2)
    figure = new_figure(90 + PANEL * rows)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, (roles, found) in zip(panels, counts.items(), strict=False):
        _counts(axes, found)
        axes.set_title(roles, fontsize=10).set_parse_math(False)
    for axes in panels[len(counts) :]:
        axes.remove()
    for axes in panels[max(len(counts) - 2, 0) : len(counts)]:
        axes.set_xlabel("spike count k", fontsize=10)
    _legend(figure, panels[0])
    figure.supylabel("share of the inputs", fontsize=11)
    return figure


def draw_encoders(encoded: Encoded) -> Figure:
    """The potentials of a role, and their counts by SDLLM's three encoders (its figures 3, 6 and 7)."""
    figure = new_figure(90 + 2 * PANEL)
    figure.suptitle(
        f"Inputs of {encoded.roles}, by SDLLM's encoders", fontsize=13, fontweight="bold", x=0.01, ha="left"
    )
    panels = figure.subplots(2, 2).flatten()
    _potentials(panels[0], encoded)
    panels[0].set_title("before: potential", fontsize=10)
    panels[0].set_xlabel("u ÷ RMS of its token", fontsize=10)
    for axes, (kind, found) in zip(panels[1:], encoded.encoders.items(), strict=False):
        _counts(axes, found, with_gaussian=kind != "clipped")
        axes.set_title(f"{kind}: mean |k| {found.mean_count:.2f}", fontsize=10)
        axes.set_xlabel("spike count k", fontsize=10)
    _legend(figure, panels[1])
    figure.supylabel("share of the inputs", fontsize=11)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def _counts(axes: Axes, found: Distribution, *, with_gaussian: bool = True) -> None:
    low, high = _middle(found.shares)
    counts = range(low, high + 1)
    shares = [found.shares.get(count, 0.0) for count in counts]
    if len(counts) <= MANY:
        axes.bar(counts, shares, width=0.8, color=COLOURS[0], label="counts")
    else:
        axes.fill_between(counts, shares, step="mid", color=COLOURS[0], linewidth=0, label="counts")
    if with_gaussian and found.gaussian:
        marker = "o" if len(counts) <= MANY else None
        curve = [found.gaussian.get(count, math.nan) for count in counts]
        axes.plot(counts, curve, color=COLOURS[1], marker=marker, markersize=3, linewidth=1.3, label="Gaussian")
    axes.set_ylim(0, 1.08 * max(*shares, *(found.gaussian.values() if with_gaussian else ()), 1e-9))
    _percent(axes)


def _middle(shares: Mapping[int, float]) -> tuple[int, int]:
    """The counts to show: all, or where they are many those between the tails."""
    counts = sorted(shares)
    if counts[-1] - counts[0] < MANY:
        return counts[0], counts[-1]
    return _end(counts, shares), _end(counts[::-1], shares)


def _end(counts: Sequence[int], shares: Mapping[int, float]) -> int:
    passed = 0.0
    for count in counts:
        passed += shares[count]
        if passed >= TAIL:
            return count
    return counts[-1]


def _potentials(axes: Axes, encoded: Encoded) -> None:
    edges, shares = np.array(encoded.potentials.edges), np.array(encoded.potentials.shares)
    axes.stairs(shares, edges, fill=True, color=COLOURS[0])
    erf = np.array([math.erf(edge / math.sqrt(2)) for edge in edges])
    axes.plot((edges[:-1] + edges[1:]) / 2, np.diff(erf) / 2, color=COLOURS[1], linewidth=1.3)
    axes.set_xlim(-4.5, 4.5)
    axes.set_ylim(0, None)
    _percent(axes)


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")


def draw_slots(codes: Sequence[CodeTraffic]) -> Figure:
    """Synchronous traffic: mean spikes of an input in each slot, by code."""
    figure = new_figure(315)
    axes = figure.add_subplot()
    for index, code in enumerate(codes):
        slots = range(1, len(code.slots) + 1)
        label = f"{code.code}{' (this model)' if code.is_own else ''}"
        axes.plot(
            slots,
            code.slots,
            color=COLOURS[index],
            linestyle=LINES[index],
            marker=MARKERS[index] if len(code.slots) <= MANY else None,
            linewidth=2.2 if code.is_own else 1.2,
            label=label,
        )
    axes.set_title("Spikes in each slot, all neurons on one clock")
    axes.set_xlabel("time slot")
    axes.set_ylabel("spikes of an input in the slot")
    if max(len(code.slots) for code in codes) > MANY:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("time slot (logarithmic)")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_ylim(0, None)
    axes.grid(color=GRID)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_bursts(codes: Sequence[CodeTraffic]) -> Figure:
    """Asynchronous bursts: how many spikes a neuron sends at once, by code."""
    figure = new_figure(315)
    axes = figure.add_subplot()
    width = 0.84 / len(codes)
    for index, code in enumerate(codes):
        sizes = [*(code.bursts.get(size, 0.0) for size in range(MOST_BURSTS)), _beyond(code)]
        places = np.arange(len(sizes)) + (index - (len(codes) - 1) / 2) * width
        label = f"{code.code}{' (this model)' if code.is_own else ''}"
        axes.bar(places, sizes, width, color=COLOURS[index], hatch=HATCHES[index], label=label)
    axes.set_title("Spikes of a neuron at once, without a clock")
    axes.set_xticks(range(MOST_BURSTS + 1), [*map(str, range(MOST_BURSTS)), f"{MOST_BURSTS}+"])
    axes.set_xlabel("burst: spikes of one input")
    axes.set_ylabel("share of the inputs")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _beyond(code: CodeTraffic) -> float:
    return sum(share for size, share in code.bursts.items() if size >= MOST_BURSTS)
