"""What a fine-tune tells: one line a logged step, and a summary."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FinetuneSummary", "StepResult"]


@dataclass(frozen=True)
class StepResult:
    """One logged step.

    Attributes:
        step: from 1.
        tokens: read so far, by all processes.
        loss: mean over the step, in nats.
        gradient_norm: before it was clipped.
        tokens_per_second: since the run began, or went on.
        firing_rate: mean over the layers that are clipped, or that fire, of the latest batch.
        threshold: mean τ, where inputs are clipped.
        lowest_threshold, highest_threshold: over the layers.
    """

    step: int
    tokens: int
    loss: float
    gradient_norm: float
    tokens_per_second: float
    firing_rate: float | None = None
    threshold: float | None = None
    lowest_threshold: float | None = None
    highest_threshold: float | None = None


@dataclass(frozen=True)
class FinetuneSummary:
    """What came out: the model's folder, and the last logged step."""

    output: str
    steps: int
    tokens: int
    loss: float
    threshold: float | None
    firing_rate: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
