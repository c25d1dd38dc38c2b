"""Draws a frontier as an SVG: spikes per input, and perplexity beside the float model's.

Both axes are logarithmic: that of perplexity / float in what is above 1, because a conversion at 1.02 is to one at 1.04
what 1.5 is to 2. Its ticks say the ratio itself.
"""

from collections.abc import Iterator
from html import escape
from itertools import pairwise

from spikeconv.frontier.axes import Axis
from spikeconv.frontier.labels import Box, Label, place_labels
from spikeconv.frontier.rows import Frontier, Row

__all__ = ["draw"]

WIDTH, HEIGHT = 400, 350
PLOT = Box(44, 72, 388, 304)
"""The room inside the axes."""

INK, QUIET, GRID, PAPER, OURS = "#1f2937", "#6b7280", "#e5e7eb", "#d9730d", "#1d5fd1"
COLOURS = {"paper": PAPER, "ours": OURS}
FONT, TITLE = 12, 14
BEST, WORST = 1.005, 4.0
"""Ratios below and above are drawn at the edges; those above with their number."""

FEWEST = 0.3
"""Fewer spikes per input are drawn at the edge."""

RATIOS = (1.01, 1.1, 2, 1.02, 1.05, 1.2, 1.5, 3, 4, 1.005)
SPIKES = (1, 2, 4, 8, 16, 32, 64, 0.5, 0.25, 0.7, 0.125, 128)


def draw(frontier: Frontier, name: str) -> str:
    """The picture, for 400 pixels in width and more.

    Args:
        frontier: what was measured.
        name: of the model, for the title.
    """
    ratios = [frontier.worst(row) for row, _ in frontier.spiking]
    spikes = [max(spikes, FEWEST) for _, spikes in frontier.spiking]
    x = Axis.around(spikes, PLOT.left, PLOT.right, least=0.6, most=1000)
    y = Axis.around([_above(each) for each in ratios], PLOT.bottom, PLOT.top, least=0.015, most=_above(WORST))
    parts = [*_frame(name, x, y), *_line(frontier, x, y), *_points(frontier, x, y)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{2 * WIDTH}" '
        f'height="{2 * HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="{FONT}" fill="{INK}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _above(ratio: float) -> float:
    """What the y axis is logarithmic in."""
    return max(ratio, BEST) - 1


def _text(x: float, y: float, text: str, rest: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{" " * bool(rest)}{rest}>{escape(text)}</text>'


def _frame(name: str, x: Axis, y: Axis) -> Iterator[str]:
    """Background, title, legend, axes."""
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>'
    yield _text(12, 22, f"Perplexity ÷ float, {name}", f'font-size="{TITLE}" font-weight="bold"')
    left = 12.0
    for mark, words in (("paper", "published"), ("ours", "ours")):
        yield f'<circle cx="{left + 5:.1f}" cy="41" r="5" fill="{COLOURS[mark]}"/>'
        yield _text(left + 15, 45.3, words)
        left += 90 if mark == "paper" else 58
    yield f'<path d="M{left:.1f} 41h18" stroke="{QUIET}" stroke-width="2" fill="none"/>'
    yield _text(left + 24, 45.3, "Pareto front")
    for value in y.ticks([_above(ratio) for ratio in RATIOS], 17):
        yield f'<path d="M{PLOT.left} {y.place(value):.1f}H{PLOT.right}" stroke="{GRID}"/>'
        yield _text(PLOT.left - 6, y.place(value) + 4.2, f"{1 + value:g}", f'text-anchor="end" fill="{QUIET}"')
    for value in x.ticks(SPIKES, 34):
        yield f'<path d="M{x.place(value):.1f} {PLOT.top}V{PLOT.bottom}" stroke="{GRID}"/>'
        yield _text(x.place(value), PLOT.bottom + 16, f"{value:g}", f'text-anchor="middle" fill="{QUIET}"')
    yield f'<path d="M{PLOT.left} {PLOT.top}V{PLOT.bottom}H{PLOT.right}" stroke="{QUIET}" fill="none"/>'
    yield _text((PLOT.left + PLOT.right) / 2, HEIGHT - 10, "spikes per input", 'text-anchor="middle"')


def _line(frontier: Frontier, x: Axis, y: Axis) -> Iterator[str]:
    """The border of what nothing beats, in steps: between two points there is nothing yet."""
    places = _corners(frontier, x, y)
    if len(places) > 1:
        steps = " ".join(f"{each[0]:.1f},{each[1]:.1f}" for each in places)
        yield f'<polyline points="{steps}" stroke="{QUIET}" stroke-width="1.6" fill="none"/>'


def _corners(frontier: Frontier, x: Axis, y: Axis) -> list[tuple[float, float]]:
    spikes = {row.label: value for row, value in frontier.spiking}
    inside = [row for row in frontier.pareto if not y.beyond(_above(frontier.worst(row)))]
    places = [(x.place(spikes[row.label]), y.place(_above(frontier.worst(row)))) for row in inside]
    corners = [(places[0][0], PLOT.top)] if places else []
    for place, following in zip(places, [*places[1:], (PLOT.right, 0.0)], strict=False):
        corners += [place, (following[0], place[1])]
    return corners


def _points(frontier: Frontier, x: Axis, y: Axis) -> Iterator[str]:
    """Markers, each with its numbers as a tooltip, and the labels that find a place: the border's first."""
    border = {row.label for row in frontier.pareto if not y.beyond(_above(frontier.worst(row)))}
    ordered = sorted(frontier.spiking, key=lambda each: (each[0].label not in border, each[0].mark != "paper"))
    places = [(x.place(spikes), y.place(_above(frontier.worst(row)))) for row, spikes in ordered]
    taken = [Box(a - 6, b - 6, a + 6, b + 6) for a, b in places]
    corners = _corners(frontier, x, y)
    taken += [
        Box(min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1)
        for a, b in pairwise(corners)
    ]
    words = [_words(row, frontier.worst(row), y) for row, _ in ordered]
    named = [(a, b, text, row.label in border) for (a, b), text, (row, _) in zip(places, words, ordered, strict=True)]
    labels = place_labels(named, FONT, Box(PLOT.left + 2, PLOT.top - 23, PLOT.right + 2, PLOT.bottom - 2), taken)
    for (row, spikes), place, label in zip(ordered, places, labels, strict=True):
        yield _point(row, spikes, frontier.worst(row), place, y, row.label in border)
        if label is not None:
            yield from _label(label, place, COLOURS[row.mark], row.label in border)


def _words(row: Row, worst: float, y: Axis) -> str:
    times = f"{worst:.1f}" if worst < 10 else f"{worst:,.0f}" if worst < 1e5 else f"{worst:.0e}"
    return f"{row.label} {times}×" if y.beyond(_above(worst)) else row.label


def _point(row: Row, spikes: float, worst: float, place: tuple[float, float], y: Axis, border: bool) -> str:
    (a, b), colour = place, COLOURS[row.mark]
    tooltip = f"<title>{escape(row.label)}: {spikes:.3f} spikes per input, {worst:.4g} × float</title>"
    style = f'fill="{colour}" stroke="#ffffff" stroke-width="1.2"'
    if y.beyond(_above(worst)):
        return f'<path d="M{a - 5.5:.1f} {b + 8:.1f}h11l-5.5 -9.5z" {style}>{tooltip}</path>'
    return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{5.5 if border else 4.5}" {style}>{tooltip}</circle>'


def _label(label: Label, place: tuple[float, float], colour: str, border: bool) -> Iterator[str]:
    if label.far:
        a, b = label.end(*place)
        yield f'<path d="M{place[0]:.1f} {place[1]:.1f}L{a:.1f} {b:.1f}" stroke="{colour}" stroke-opacity="0.5"/>'
    weight = ' font-weight="bold"' if border else ""
    yield _text(label.x, label.y, label.text, f'text-anchor="middle" fill="{colour}"{weight}')
