"""The frontier as rows: perplexities beside the float model's, and which points nothing beats."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spikeconv.frontier.grid import FLOAT
from spikeconv.frontier.measure import Measurement
from spikeconv.frontier.pareto import pareto_set

__all__ = ["Frontier", "Row"]


@dataclass(frozen=True)
class Row:
    """A point: its label, whose it is (`float`, `paper`, `ours`), what was measured, and its settings if it has any."""

    label: str
    mark: str
    measured: Measurement
    settings: Mapping[str, Any] | None


@dataclass(frozen=True)
class Frontier:
    """What a run found.

    Attributes:
        rows: the float model first, then the points in the grid's order.
        left_out: why a point of the grid is missing, by label.
    """

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]

    def ratios(self, row: Row) -> dict[str, float]:
        """Perplexity / that of the float model, by text."""
        reference = self.rows[0].measured.perplexity
        return {name: value / reference[name] for name, value in row.measured.perplexity.items()}

    def worst(self, row: Row) -> float:
        """The larger of its ratios."""
        return max(self.ratios(row).values())

    @cached_property
    def spiking(self) -> tuple[tuple[Row, float], ...]:
        """The points that send spikes, and how many an input: what the frontier is about."""
        found = ((row, row.measured.spikes_per_input) for row in self.rows)
        return tuple((row, spikes) for row, spikes in found if spikes is not None)

    @cached_property
    def pareto(self) -> tuple[Row, ...]:
        """The points that no other beats in (spikes per input, worst ratio), by spikes."""
        chosen = pareto_set([(spikes, self.worst(row)) for row, spikes in self.spiking])
        return tuple(self.spiking[index][0] for index in chosen)

    def table(self) -> list[dict[str, Any]]:
        """One flat mapping a row, all with the same keys."""
        labels = {row.label for row in self.pareto}
        return [
            {
                "label": row.label,
                "mark": row.mark,
                "pareto": row.label in labels,
                "spikes_per_input": row.measured.spikes_per_input,
                "slots": row.measured.slots,
                "zero_share": row.measured.zero_share,
                "additions_per_token": row.measured.additions_per_token,
                **{f"perplexity_{name}": value for name, value in row.measured.perplexity.items()},
                **{f"ratio_{name}": value for name, value in self.ratios(row).items()},
                "worst_ratio": self.worst(row),
                **row.measured.tasks,
                "bytes": row.measured.bytes,
                "seconds": row.measured.seconds,
            }
            for row in self.rows
        ]

    def csv(self) -> str:
        """The table; nothing stands where there is no number."""
        rows, text = self.table(), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        settings = {row.label: row.settings for row in self.rows if row.label != FLOAT}
        return {"points": self.table(), "settings": settings, "left_out": dict(self.left_out)}
