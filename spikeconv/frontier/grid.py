"""The grid of a frontier: which conversions are measured, as data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from spikeconv.config import parse_settings
from spikeconv.config.base import Settings
from spikeconv.errors import SpikeconvError
from spikeconv.sources.presets import configs_folder
from spikeconv.suggest import did_you_mean
from spikeconv.untrusted import read_bounded
from spikeconv.yaml_text import MOST_YAML, parse_yaml

__all__ = ["FLOAT", "Mark", "Point", "choose_points", "load_grid"]

FLOAT = "float"
"""The label of the float model, which belongs to every grid."""

Mark = Literal["paper", "ours"]


class Point(Settings):
    """One conversion: a scheme, settings on top of it, or both."""

    label: str = Field(min_length=1, max_length=40, description="what tables and the picture call it")
    mark: Mark = Field(description="somebody's published setting, or ours")
    scheme: str | None = Field(None, description="a YAML file, or a name in configs/schemes/")
    settings: Mapping[str, Any] = Field(default_factory=dict, description="as in a scheme; they win over it")

    @model_validator(mode="after")
    def _sensible(self) -> "Point":
        if self.label == FLOAT:
            raise ValueError("label float is the float model's, which is always measured; leave this point out")
        if "," in self.label or not self.label.isprintable() or self.label != self.label.strip():
            raise ValueError(f"label {self.label!r} must be one line without commas, which separate labels")
        if self.scheme is None and not self.settings:
            raise ValueError(f"{self.label} has neither scheme nor settings")
        return self


def load_grid(file: Path | None = None) -> tuple[Point, ...]:
    """The points of a YAML file, which holds a list of them; None: those of `configs/frontier.yaml`.

    Raises:
        SpikeconvError: it cannot be read, or is no such list.
    """
    path = configs_folder() / "frontier.yaml" if file is None else file
    try:
        text = read_bounded(path, MOST_YAML).decode("utf-8")
    except OSError as error:
        raise SpikeconvError(f"The grid {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise SpikeconvError(f"The grid {path} is not UTF-8 text: byte {error.start} cannot be read.") from None
    rows = parse_yaml(text, str(path))
    if not isinstance(rows, list) or not rows:
        found = "nothing" if not rows else f"a {type(rows).__name__}"
        raise SpikeconvError(
            f"The grid {path} holds {found}; a list of points was expected: label, mark, scheme or settings."
        )
    points = tuple(parse_settings(Point, row, f"{path}: point {number}") for number, row in enumerate(rows, 1))
    labels = [point.label for point in points]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise SpikeconvError(f"{path}: two points are called {twice!r}; labels must differ.")
    return points


def choose_points(points: Sequence[Point], labels: str | None) -> tuple[Point, ...]:
    """The points of a grid with these labels (with commas), in the grid's order; None: all.

    Raises:
        SpikeconvError: the grid has no such point.
    """
    if labels is None:
        return tuple(points)
    known = [FLOAT, *(point.label for point in points)]
    wanted = [label.strip() for label in labels.split(",")]
    for label in wanted:
        if label not in known:
            hint = did_you_mean(label, known)
            raise SpikeconvError(f"--points: the grid has no {label!r}.{hint} It has: {', '.join(known)}.")
    return tuple(point for point in points if point.label in wanted)
