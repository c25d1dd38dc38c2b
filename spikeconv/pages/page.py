"""The page: HTML that needs nothing beside it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from spikeconv import __version__
from spikeconv.pages.explain import Card, Fact, Note, Verdict
from spikeconv.pages.figures import Picture
from spikeconv.pages.tables import Table

__all__ = ["ModelPage", "Note", "render"]


@dataclass(frozen=True)
class ModelPage:
    """One model's part.

    Attributes:
        key: its anchor, and what its files begin with.
        name: on the page.
        facts: what was measured.
        cards: totals.
        verdicts: by energy profile.
        notes: what is missing, and how to get it.
        pictures, tables: of it.
        settings: all, by path.
    """

    key: str
    name: str
    facts: Sequence[Fact]
    cards: Sequence[Card]
    verdicts: Sequence[Verdict]
    notes: Sequence[Note]
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    settings: Sequence[Fact]


def render(
    models: Sequence[ModelPage],
    comparison: Table,
    notes: Sequence[Note],
    quality: Sequence[Picture],
    missing: Sequence[Note],
) -> str:
    """The whole page.

    Everything that came from outside (names, tokens, settings) is escaped; only our own style, script and pictures are
    put in as they are, and a browser is told to run no script but that one and to fetch nothing.

    Args:
        models: their parts.
        comparison: a row for each of several.
        notes: on it.
        quality: pictures of scores against spikes.
        missing: scores that are not there, with the commands that make them.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    script = _read("report.js")
    return environment.from_string(_read("report.html.j2")).render(
        models=models,
        comparison=comparison,
        notes=notes,
        quality=quality,
        missing=missing,
        version=__version__,
        style=_read("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _read(name: str) -> str:
    return (files("spikeconv.pages") / "template" / name).read_text(encoding="utf-8")
