"""Runs `spikeconv` as a user would, for the benchmark scripts."""

import json
import pydoc_data.topics
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from spikeconv.cli.app import app
from spikeconv.report.energy import spikerwkv

__all__ = ["event_cells", "python_documentation", "run"]


def run(*arguments: str) -> Any:
    """The answer of one command with `--json`; the command is shown on stderr."""
    print("$ spikeconv", shlex.join(arguments), file=sys.stderr, flush=True)
    result = CliRunner().invoke(app, [*arguments, "--json", "--quiet"], catch_exceptions=False)
    return json.loads(result.stdout)


def event_cells(layers: list[dict[str, Any]]) -> list[str]:
    """Events of an input in three readings (graded, ones of the binary code, unary) and SpikeRWKV's EE for each.

    Args:
        layers: of `report-firing-rate --json`; means are weighted by multiply-accumulates.
    """
    events = [_mean(layers, field) for field in ("events", "ones", "mean_count")]
    cells = ["" if value is None else f"{value:.2f}" for value in events]
    return cells + ["" if value is None else f"{spikerwkv(1, value).efficiency:.2f}" for value in events]


def _mean(layers: list[dict[str, Any]], field: str) -> float | None:
    """None where the field has no value."""
    if any(layer[field] is None for layer in layers):
        return None
    return float(sum(layer[field] * layer["macs"] for layer in layers) / sum(layer["macs"] for layer in layers))


def python_documentation(folder: Path) -> Path:
    """A text file with the documentation that ships with Python."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = pydoc_data.topics.topics
    path = folder / "docs.txt"
    path.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path
