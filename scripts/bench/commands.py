"""Runs `spikeconv` as a user would, for the benchmark scripts."""

import json
import pydoc_data.topics
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from spikeconv.cli.app import app

__all__ = ["python_documentation", "run"]


def run(*arguments: str) -> Any:
    """The answer of one command with `--json`; the command is shown on stderr."""
    print("$ spikeconv", shlex.join(arguments), file=sys.stderr, flush=True)
    result = CliRunner().invoke(app, [*arguments, "--json", "--quiet"], catch_exceptions=False)
    return json.loads(result.stdout)


def python_documentation(folder: Path) -> Path:
    """A text file with the documentation that ships with Python."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = pydoc_data.topics.topics
    path = folder / "docs.txt"
    path.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path
