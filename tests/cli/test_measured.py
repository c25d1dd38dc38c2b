"""A number in JSON says of what it is, on what it was measured, and with what."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikeconv.cli import console, evaluate
from spikeconv.evaluate.results import EvaluationResult, TaskResult

SCORES = EvaluationResult(
    (TaskResult("piqa", "acc", 0.5, None, 4, "validation", {"acc": 0.5}),), "offline", 2.0, 100, {"results": {}}
)


def test_json_says_what_it_measured(
    spikeconv: Callable[..., Any],
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_tasks", lambda *_, **__: SCORES)
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 8, encoding="utf-8")
    source, out = tiny_checkpoint("llama"), tmp_path / "out"
    for command, said in (
        (("convert", source, "-o", out), {"source": str(source)}),
        (("plan", source), {"source": str(source)}),
        (("eval", "--tasks", "piqa", "--data", "offline", "--limit", 4), {"tasks": ["piqa"], "limit": 4}),
        (("perplexity", "--text", text, "--window", 16, "--exec", "events"), {"window": 16, "execution": "events"}),
        (("verify", "--text", text, "--tokens", 5), {"tokens": 5}),
        (("check",), {}),
        (("generate", "-p", "It", "-n", 2), {"prompt": "It", "max_new_tokens": 2}),
        (("export",), {"format": "weights"}),
        (("export", "--format", "events", "--text", text, "--tokens", 4), {"format": "events"}),
        (("record", "--text", text, "--tokens", 20), {}),
        (("report-firing-rate", "--text", text, "--tokens", 20), {}),
        (("report-energy", "--text", text, "--tokens", 20), {"attention": "float"}),
        (("report-energy", "--record", out / "record"), {"attention": "float"}),
        (("report-energy", "--model", source, "--rate", 0.2), {"source": str(source), "rate": 0.2, "tokens": 1024}),
    ):
        result = spikeconv(*command, "--json", "-q")
        assert result.code == 0, result.err
        measured = result.json["measured"]
        assert said.items() <= measured.items(), command
        assert measured["versions"].keys() >= {"spikeconv", "torch"}, command
        of = measured.get("checkpoint", measured)
        settings = measured["settings"] if isinstance(of, str) or of is measured else of["settings"]
        assert settings["weights"]["bits"] == 4, command
        if "checkpoint" in measured:
            assert of == str(out) if isinstance(of, str) else of["name"] == "out", command
        if "--text" in command:
            assert measured["text"]["what"] == str(text) and len(measured["text"]["sha256"]) == 64


def test_every_command_says_so() -> None:
    for path in Path(console.__file__).parent.glob("*.py"):
        if path.name not in ("models.py", "doctor.py", "card.py", "push.py", "console.py"):  # which measure nothing
            code = path.read_text(encoding="utf-8")
            assert "print_json(" not in code or re.search(r"measured\b", code), path.name
