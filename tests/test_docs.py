"""That the documentation does not rot: what it names exists, its links lead somewhere, and its notebook runs."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from spikeconv.cli.app import app
from spikeconv.config import CodeSettings, KvSettings, RotationSettings, WeightSettings
from spikeconv.config.inputs import INPUTS, ClipSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"), DOCS / "spikes.ipynb"]
EQUATIONS = {
    "SDLLM": [str(number) for number in range(1, 28)],
    "SpikeRWKV": ["1", "2", "3", "4", "5a", "5b"],
    "SpikeGPT": [str(number) for number in range(1, 33)],
    "SpikeLM": [str(number) for number in range(1, 23)],
}
"""The numbers that each paper prints."""

SETTINGS = {
    "weights": [WeightSettings],
    "inputs": [*INPUTS.values()],
    "inputs.clip": [ClipSettings],
    "rotation": [RotationSettings],
    "code": [CodeSettings],
    "kv": [KvSettings],
}


def options() -> dict[str, set[str]]:
    """The options of every command."""
    group: Any = typer.main.get_command(app)  # of typer's own click
    return {
        name: {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
        for name, command in group.commands.items()
    }


def names_in(path: Path) -> Iterator[str]:
    """Functions, classes, methods and constants of a file, with the class in front."""
    stack: list[tuple[str, ast.stmt]] = [("", node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    while stack:
        prefix, node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            stack += [(f"{prefix}{node.name}.", child) for child in node.body]
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def missing(span: str, known: dict[str, set[str]]) -> str | None:
    """What is wrong with a word in `code`, if anything."""
    if place := re.fullmatch(r"([\w/.-]+\.py):([\w.]+)", span):
        path = ROOT / ("" if place[1].startswith(("tests/", "scripts/")) else "spikeconv") / place[1]
        return None if path.is_file() and place[2] in names_in(path) else "no such function"
    if setting := re.fullmatch(r"((?:weights|inputs|rotation|code|kv)(?:\.clip)?)\.(\w+)(?:=\S+)?", span):
        return None if any(setting[2] in model.model_fields for model in SETTINGS[setting[1]]) else "no such setting"
    if span.startswith("scripts/"):
        return None if (ROOT / span).is_file() else "no such script"
    command, *_ = span.split()
    if not span.startswith("--") and command not in known:
        return "no such command"
    flags = set().union(*known.values()) if span.startswith("--") else known[command]
    unknown = [word for word in span.split() if word.startswith("--") and word not in flags]
    scheme = re.search(r"--scheme (\S+)", span)
    if scheme and not (ROOT / f"configs/schemes/{scheme[1]}.yaml").is_file():
        return "no such scheme"
    return f"no option {unknown[0]}" if unknown else None


def test_the_equation_map_is_whole_and_names_what_exists() -> None:
    page = (DOCS / "equations.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+): .*?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    for paper, wanted in EQUATIONS.items():
        numbers = re.findall(r"^\| ((?:\d+[ab]?(?:, )?)+) \|", sections[paper], re.MULTILINE)
        assert [number for row in numbers for number in row.split(", ")] == wanted, paper
    known = options()
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert {len(row) for row in cells} == {5}
    named = [
        (span, missing(span, known)) for row in cells for cell in row[2:] for span in re.findall("`([^`]+)`", cell)
    ]
    assert len(named) > 200 and not [pair for pair in named if pair[1]]
    # A row has its proof, or says why it has none.
    for _, words, code, _, test in cells:
        assert code.strip() != "–" or test.strip() == "–", words
        assert code.strip() != "–" or re.search(r"[Nn]ot (computed|drawn|here)", words), words


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere_and_commands_have_their_options() -> None:
    known, wrong = options(), []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            place = (page.parent / path).resolve() if path else page
            if "://" in target or target.startswith("mailto:"):
                continue
            if not place.exists() or (anchor and anchor not in anchors(place)):
                wrong.append(f"{page.name}: {target}")
        for command, rest in re.findall(r"^(?:\$ |    )spikeconv ([a-z-]+)([^\n#&]*)", text, re.MULTILINE):
            flags = re.findall(r"(?<=\s)--[a-z][a-z-]*", rest)
            wrong += [f"{page.name}: {command} {flag}" for flag in flags if flag not in known.get(command, ())]
    assert not wrong


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its code cells in order, in one process: a kernel of Jupyter's would be forty packages more."""
    notebook = json.loads((DOCS / "spikes.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and (DOCS / "spikes.ipynb").stat().st_size < 200_000
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    proofs = sum(cell.count("assert ") for cell in cells)
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join([*cells, f"print('proofs {proofs}, pictures', plt.get_fignums())"]), encoding="utf-8")
    quiet = {**os.environ, "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, str(script)], cwd=DOCS, env=quiet, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert proofs == 5 and "proofs 5, pictures [1, 2]" in run.stdout
    told = ["".join(out["text"]) for cell in notebook["cells"] for out in cell.get("outputs", ()) if "text" in out]
    assert any("accumulators" in text for text in told), "kept outputs, for those who read it on the web"
    assert not re.search(r"/(home|root|tmp|Users)/", "".join(told))
