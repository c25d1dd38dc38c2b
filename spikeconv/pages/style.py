"""How pictures look: colours that can be told apart without colour vision, sizes for a phone, light and dark.

Pictures are drawn 400 units wide, as a phone shows them, and grow from there. In a page their colours are CSS
variables, so that one drawing serves light and dark; a file of its own has those of a white page.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "GRID",
    "HATCHES",
    "INK",
    "LINES",
    "MARKERS",
    "PAPER",
    "QUIET",
    "WIDTH",
    "Drawn",
    "drawing",
    "new_figure",
]

INK, QUIET, GRID, PAPER, SHEET = "#1f2937", "#5b6472", "#d9dde3", "#fefefe", "#fffffe"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7a00", "#7f7f7f")
"""Okabe and Ito's, their yellow darker and black grey, to be seen on white and on black."""
VARIABLES = {INK: "ink", QUIET: "quiet", GRID: "line", PAPER: "paper"} | {
    colour: f"c{index}" for index, colour in enumerate(COLOURS)
}
HATCHES = ("", "///", "\\\\\\", "---", "xxx", "|||", "+++", "//")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")

POINTS = 72
WIDTH = 400
PNG_DPI = 216
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "hatch.color": PAPER,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "auto",
}


@dataclass(frozen=True)
class Drawn:
    """A picture.

    Attributes:
        svg: a file of its own, on white.
        inline: to stand in a page: no names that another picture may have, no addresses, colours as variables.
        png: the same as a bitmap.
        width: in units of the drawing.
    """

    svg: str
    inline: str
    png: bytes
    width: int


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of that size in units; a unit is a pixel where a page shows it as it was drawn."""
    return Figure(figsize=(width / POINTS, height / POINTS), facecolor=SHEET)


@contextmanager
def drawing() -> Iterator[None]:
    """The look of everything drawn inside."""
    with rc_context(RC):
        yield


def drawn(figure: Figure, key: str, description: str) -> Drawn:
    """Render a figure.

    Args:
        figure: made by `new_figure` in `drawing`.
        key: a name that no other picture of the page has: letters, digits and hyphens.
        description: what it shows, for who cannot see it.
    """
    svg, png = io.StringIO(), io.BytesIO()
    with rc_context({**RC, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in PNG files alone, where no font has it
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what fits once, fits
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": description})
        figure.savefig(png, format="png", dpi=PNG_DPI)
    width = round(figure.get_figwidth() * POINTS)
    return Drawn(svg.getvalue(), _inline(svg.getvalue(), key, description), png.getvalue(), width)


def _inline(svg: str, key: str, description: str) -> str:
    """An SVG element for a page, of an SVG file of matplotlib's."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]*)"', body)
    assert view is not None
    label = _attribute(description)
    body = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view[1]}" role="img" aria-label="{label}">', body, count=1)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r"url\(#", f"url(#{key}-", body)
    body = re.sub(r'xlink:href="#', f'xlink:href="#{key}-', body)
    body = re.sub(r"font:([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font:\1var(--sans)", body)
    body = body.replace(f"fill: {SHEET}", "fill: none")
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", body).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
