"""Results of evaluations beside a checkpoint, `CHECKPOINT/eval/*.json`: each says of which model, and how it was made.

A file has `spikeconv`, the numbers of the checkpoint, `baseline`, those of the float model if that ran too, and `run`:

    checkpoint   what `checkpoint_digest` gives; results of other bytes or settings are not taken for its own
    source       what `float_digest` gives, of the float model
    asked        the same question has the same: text, window and tokens, or limit and number of examples
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.checkpoint.folder import checkpoint_digest
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.results import ACCURACIES
from spikeconv.hashing import sha256_of, text_digest
from spikeconv.plain import plain_value, write_json
from spikeconv.sources.json_file import read_json
from spikeconv.versions import versions

if TYPE_CHECKING:
    from spikeconv.evaluate.perplexity import PerplexityResult
    from spikeconv.evaluate.results import EvaluationResult

__all__ = [
    "PERPLEXITY",
    "Found",
    "Stored",
    "float_digest",
    "result_path",
    "save_perplexity",
    "save_results",
    "stored_of",
    "stored_results",
    "task_question",
    "text_question",
]

PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Stored:
    """One number, and what it answers.

    Attributes:
        name: `perplexity`, or a task's name.
        metric: `perplexity`, `acc_norm`, …; accuracies are in 0..1.
        value, stderr: of it.
        asked: of perplexity `label` and `text` (SHA-256), `window`, `max_tokens`; of a task `limit`, `num_fewshot`,
            `data`, `n` documents, `split`. Only where it is equal can two values stand beside each other.
        how: `dtype`, `device`; of perplexity also `tokens` and `text_bytes` that were predicted. Say where it differs.
        metrics: every metric by name.
        file: where it stands; None if it was measured just now.
    """

    name: str
    metric: str
    value: float
    stderr: float | None
    asked: dict[str, Any]
    how: dict[str, Any]
    metrics: dict[str, float]
    file: Path | None = None

    @property
    def is_accuracy(self) -> bool:
        """Whether the value is a share of right answers."""
        return self.metric.startswith(ACCURACIES)

    @property
    def question(self) -> str:
        """Equal for equal questions."""
        return json.dumps([self.name, self.metric, {**self.asked, "label": None}], sort_keys=True)


@dataclass(frozen=True)
class Found:
    """What lies beside a checkpoint.

    Attributes:
        results: of this very checkpoint.
        baseline: of the float model, by its `float_digest`.
        others: files that are not: of other bytes or settings, written by hand, or damaged.
    """

    results: tuple[Stored, ...]
    baseline: dict[str, tuple[Stored, ...]]
    others: tuple[Path, ...]


def result_path(checkpoint: Path, tasks: Sequence[str], limit: int | None, num_fewshot: int | None) -> Path:
    """Where results lie beside a checkpoint; a limited or few-shot run never replaces a full one."""
    name = "-".join(tasks)[:120]
    name += f"-{num_fewshot}shot" if num_fewshot is not None else ""
    name += f"-limit{limit}" if limit is not None else ""
    return checkpoint / "eval" / f"{name}.json"


def save_results(
    path: Path,
    result: "EvaluationResult",
    baseline: "EvaluationResult | None" = None,
    *,
    checkpoint: Path | None = None,
    source: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> None:
    """Write lm-eval's results, ours under `spikeconv` and the float model's under `baseline`, atomically.

    Args:
        path: of the file.
        result: of the checkpoint.
        baseline: of the float model.
        checkpoint: the folder that was measured.
        source: the float model's.
        limit, num_fewshot: as given.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    content: dict[str, Any] = {**result.raw, "spikeconv": result.as_dict()}
    if baseline is not None:
        content["baseline"] = {**baseline.raw, "spikeconv": baseline.as_dict()}
    _write(path, content | _run(checkpoint, source, task_question(result, limit, num_fewshot)))


def task_question(result: "EvaluationResult", limit: int | None, num_fewshot: int | None) -> dict[str, Any]:
    """What was asked of tasks; of those that are files, their SHA-256 too."""
    files = {task.name: sha256_of(Path(task.name)) for task in result.tasks if Path(task.name).is_file()}
    return {"limit": limit, "num_fewshot": num_fewshot, "data": result.data, "files": files}


def text_question(content: str, label: str, window: int, max_tokens: int | None) -> dict[str, Any]:
    """What is asked about a text."""
    return {"label": label, "text": text_digest(content), "window": window, "max_tokens": max_tokens}


def save_perplexity(
    checkpoint: Path,
    asked: dict[str, Any],
    result: "PerplexityResult",
    baseline: "PerplexityResult | None" = None,
    source: Path | None = None,
) -> Path:
    """Write what `perplexity` found beside the checkpoint; other texts, windows and tokens have files of their own.

    Args:
        checkpoint: the folder that was measured.
        asked: see `text_question`.
        result: of the checkpoint.
        baseline, source: of the float model.

    Raises:
        OSError: it cannot be written; an earlier one is then as it was.
    """
    label = re.sub(r"\W+", "-", Path(asked["label"]).name).strip("-")[:40]
    most = "" if asked["max_tokens"] is None else f"-first{asked['max_tokens']}"
    path = checkpoint / "eval" / f"perplexity-{label}-{asked['text'][:8]}-{asked['window']}{most}.json"
    content: dict[str, Any] = {"spikeconv": result.as_dict()}
    if baseline is not None:
        content["baseline"] = {"spikeconv": baseline.as_dict()}
    _write(path, content | _run(checkpoint, source, {**asked, "label": Path(asked["label"]).name}))
    return path


def float_digest(path: Path) -> str:
    """What tells whether a float model is still the same: SHA-256 of where its weights lie, their sizes and times."""
    files = [path] if path.is_file() else sorted({*path.glob("*.safetensors"), *path.glob("*.bin")})
    states = [(file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([str(path.resolve()), states]).encode()).hexdigest()


def stored_results(checkpoint: Path) -> Found:
    """The results that `eval` and `perplexity` left beside a checkpoint, sorted by file.

    Raises:
        SpikeconvError: the checkpoint's record is damaged.
    """
    digest, own, others = checkpoint_digest(checkpoint), list[Stored](), list[Path]()
    baseline: dict[str, list[Stored]] = {}
    for file in sorted((checkpoint / "eval").glob("*.json")):
        try:
            content = read_json(file)
            run = content["run"]
            found, of_float = list(stored_of(content["spikeconv"], run["asked"], file)), list[Stored]()
            if "baseline" in content:
                of_float = list(stored_of(content["baseline"]["spikeconv"], run["asked"], file))
            if run["checkpoint"] != digest or digest is None:
                raise ValueError("of another checkpoint")
        except (SpikeconvError, KeyError, TypeError, ValueError, AttributeError):
            others.append(file)
            continue
        own += found
        if of_float and run["source"] is not None:
            baseline.setdefault(str(run["source"]), []).extend(of_float)
    return Found(tuple(own), {source: tuple(each) for source, each in baseline.items()}, tuple(others))


def stored_of(content: dict[str, Any], asked: dict[str, Any], file: Path | None = None) -> Iterator[Stored]:
    """The numbers in what `as_dict` of a result gives.

    Args:
        content: that.
        asked: see `text_question` and `task_question`.
        file: where it stands.
    """
    how: dict[str, Any] = {"dtype": str(content["dtype"]), "device": str(content["device"])}
    if PERPLEXITY in content:
        how |= {name: int(content[name]) for name in ("tokens", "text_bytes")}
        metrics = {name: float(content[name]) for name in (PERPLEXITY, "bits_per_byte")}
        yield Stored(PERPLEXITY, PERPLEXITY, metrics[PERPLEXITY], None, dict(asked), how, metrics, file)
        return
    shared = {name: asked[name] for name in ("limit", "num_fewshot", "data")}
    for name, task in content["tasks"].items():
        of_task = {"n": int(task["n"]), "split": str(task["split"]), "file": asked["files"].get(name)}
        error = None if task["stderr"] is None else float(task["stderr"])
        metrics = {metric: float(value) for metric, value in task["metrics"].items()}
        question = {**shared, **of_task}
        yield Stored(str(name), str(task["metric"]), float(task["value"]), error, question, how, metrics, file)


def _run(checkpoint: Path | None, source: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    digest = None
    if checkpoint is not None:
        with suppress(SpikeconvError):
            digest = checkpoint_digest(checkpoint)
    of_float = None if source is None else float_digest(source)
    made_with = versions(("torch", "transformers", "lm-eval"))
    return {"run": {"checkpoint": digest, "source": of_float, "asked": asked, "versions": made_with}}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain_value(content))
