"""What an evaluation found, and the JSON file it leaves behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikeconv.plain import plain_value, write_json

__all__ = ["EvaluationResult", "TaskResult", "result_path", "save_results"]

ACCURACIES = ("acc", "exact_match")


@dataclass(frozen=True)
class TaskResult:
    """One task's score. `metric` is acc_norm if the task has it, else acc, else its first metric.

    `n` documents of `split` were scored; `metrics` holds every metric by name; accuracies are in 0..1.
    """

    name: str
    metric: str
    value: float
    stderr: float | None
    n: int
    split: str
    metrics: dict[str, float]

    @property
    def is_accuracy(self) -> bool:
        """Whether the value is a share of right answers."""
        return self.metric.startswith(ACCURACIES)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"metric": self.metric, "value": self.value, "stderr": self.stderr, "n": self.n} | {
            "split": self.split,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class EvaluationResult:
    """One model's scores. `tokens` counts what went through it, with padding; `raw` is lm-eval's own dict."""

    tasks: tuple[TaskResult, ...]
    data: str
    seconds: float
    tokens: int
    raw: dict[str, Any] = field(repr=False)

    @property
    def average(self) -> float | None:
        """Mean over the tasks, or None if one of them is not measured by accuracy."""
        if not all(task.is_accuracy for task in self.tasks):
            return None
        return math.fsum(task.value for task in self.tasks) / len(self.tasks)

    @property
    def tokens_per_second(self) -> float:
        """Tokens through the model per second, prompt building and scoring included."""
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without `raw`."""
        return {
            "tasks": {task.name: task.as_dict() for task in self.tasks},
            "average": self.average,
            "data": self.data,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
        }


def result_path(checkpoint: Path, tasks: Sequence[str], limit: int | None, num_fewshot: int | None) -> Path:
    """Where results lie beside a checkpoint; a limited or few-shot run never replaces a full one."""
    name = "-".join(tasks)[:120]
    name += f"-{num_fewshot}shot" if num_fewshot is not None else ""
    name += f"-limit{limit}" if limit is not None else ""
    return checkpoint / "eval" / f"{name}.json"


def save_results(path: Path, result: EvaluationResult, baseline: EvaluationResult | None = None) -> None:
    """Write lm-eval's results, ours under `spikeconv` and the float model's under `baseline`, atomically.

    Raises:
        OSError: the file cannot be written; an earlier one is then as it was.
    """
    content: dict[str, Any] = {**result.raw, "spikeconv": result.as_dict()}
    if baseline is not None:
        content["baseline"] = {**baseline.raw, "spikeconv": baseline.as_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain_value(content))
