"""What an evaluation found; `stored` keeps it."""

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ACCURACIES", "EvaluationResult", "TaskResult"]

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
    """One model's scores; `raw` is lm-eval's own dict.

    `tokens` counts what went through the model: padding too, where there is any, and once what is computed once for
    several answers (by the engine).
    """

    tasks: tuple[TaskResult, ...]
    data: str
    seconds: float
    tokens: int
    raw: dict[str, Any] = field(repr=False)
    dtype: str = ""
    device: str = ""

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
            "dtype": self.dtype,
            "device": self.device,
        }
