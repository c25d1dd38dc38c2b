"""Pictures of places: heat maps by layer, and rasters of single spikes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from spikeconv.pages.style import COLOURS, GRID, QUIET, WIDTH, new_figure
from spikeconv.pages.words import token_label
from spikeconv.record.file import Array
from spikeconv.report.places import Grid, Raster

__all__ = ["draw_grid", "draw_raster"]

LEAST_SPAN = 0.2
"""Of a heat map's colours, as a share of the highest value."""
ROW, MOST_ROWS_HEIGHT, SCALE = 13, 470, 10
NEURONS = 48
"""Of a raster: the first ones."""
COLUMNS = 240
"""Of a raster, tokens times slots."""
FIRES, FIRES_MINUS = COLOURS[0], COLOURS[5]


def draw_grid(grid: Grid, title: str, below: str) -> Figure:
    """A heat map; rows are layers, from the top.

    Args:
        grid: values by layer and column.
        title: over it.
        below: what the columns are.
    """
    values = np.array([[np.nan if value is None else value for value in row] for row in grid.values])
    height = min(max(ROW * len(grid.rows), 60), MOST_ROWS_HEIGHT)
    figure = new_figure(130 + height)
    axes, scale = figure.subplots(2, 1, height_ratios=(height, SCALE))
    low, high = _range(values)
    shown = axes.imshow(values, cmap="cividis", aspect="auto", interpolation="none", vmin=low, vmax=high)
    axes.set_title(title)
    axes.set_ylabel("layer")
    axes.set_xlabel(below)
    _ticks(axes, grid.rows, vertical=True, most=min(len(grid.rows), 36))
    _ticks(axes, grid.columns, vertical=False, most=8)
    if len(grid.columns) <= 8 and any(len(name) > 7 for name in grid.columns) and len(grid.columns) > 5:
        axes.tick_params(axis="x", labelrotation=35)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    bar = figure.colorbar(shown, cax=scale, orientation="horizontal", label=grid.what)
    bar.locator = MaxNLocator(6)
    bar.outline.set_visible(False)
    bar.update_ticks()
    return figure


def _range(values: Array) -> tuple[float, float]:
    """The ends of the colours: those of the values, but never so near that a few percent look like much."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    lacking = max(LEAST_SPAN * abs(high) - (high - low), 0.0) / 2
    return low - lacking, high + lacking or 1.0


def _ticks(axes: Axes, names: Sequence[str], *, vertical: bool, most: int) -> None:
    every = -(-len(names) // most)
    places = range(0, len(names), every)
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_ticks(list(places), [names[place].split("-")[0] if every > 1 else names[place] for place in places])
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


def draw_raster(raster: Raster) -> Figure:
    """Token × neuron × slot: every token has as many columns as slots, every row is a neuron."""
    tokens = _sentence(raster)
    train = raster.train[:, :tokens, :NEURONS]
    slots, _, neurons = train.shape
    cells = train.transpose(2, 1, 0).reshape(neurons, tokens * slots)
    picture = np.zeros((*cells.shape, 4))
    for sign, colour in ((1, FIRES), (-1, FIRES_MINUS)):
        picture[cells == sign] = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] + [1.0]
    figure = new_figure(400, 2 * WIDTH)
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 6))
    spikes = np.abs(raster.train[:, :tokens].astype(np.int64)).sum((0, 2)) / raster.train.shape[2]
    edges = np.arange(tokens + 1) * slots - 0.5
    above.bar(edges[:-1], spikes, width=slots, align="edge", color=COLOURS[4], edgecolor=QUIET, linewidth=0.5)
    above.set_ylabel("spikes\n÷ inputs")
    above.set_title(f"{raster.name}: every spike of {tokens} tokens, {slots} slots each").set_parse_math(False)
    axes.imshow(picture, aspect="auto", interpolation="none")
    for edge in edges:
        axes.axvline(edge, color=GRID, linewidth=0.6)
    names = [token_label(token) for token in raster.tokens[:tokens]] or [str(place) for place in range(tokens)]
    turned: Any = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 2 else {}
    axes.set_xticks([(low + high) / 2 for low, high in pairwise(edges)], names, **turned)
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.set_xlabel("token, and in it the slots from left to right" if raster.tokens else "token (by number)")
    axes.set_ylabel(f"neuron (of {raster.train.shape[2]:,})")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    above.tick_params(axis="x", length=0)
    axes.tick_params(axis="x", length=0)
    signs = [Patch(color=FIRES, label="spike +1"), Patch(color=FIRES_MINUS, label="spike −1")]
    above.legend(handles=signs, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, borderaxespad=0.2)
    return figure


def _sentence(raster: Raster) -> int:
    """Tokens until the first sentence ends, or as many as there is room for."""
    slots, tokens, _ = raster.train.shape
    room = min(tokens, max(COLUMNS // slots, 4))
    ends = (place for place, token in enumerate(raster.tokens[:room], 1) if token.strip().endswith((".", "!", "?")))
    return next((end for end in ends if end >= 4), room)
