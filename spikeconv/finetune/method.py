"""How a model is made ready for spikes while it trains: what a session asks of each way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from spikeconv.finetune.results import StepResult
from spikeconv.progress import Track

__all__ = ["Measured", "Method"]

Measured = dict[str, float | None]
"""Fields of a `StepResult` that a method fills in."""


class Method(Protocol):
    """One way; it has changed the model already."""

    record: str
    """Name of the file that says what a conversion must know."""

    def begin(self, track: Track) -> None:
        """Work to be done once, before the first step."""

    def loss(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch, 0-d; gradients pass."""

    def measure(self, wanted: bool) -> None:
        """Whether the batches from now on are measured."""

    def update(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Work behind every step; `mean` takes the mean over the processes."""

    def measured(self) -> Measured:
        """What was measured of the latest batch."""

    def state(self) -> Any:
        """What it must have to go on, beside the model's own tensors."""

    def load(self, state: Any) -> None:
        """The inverse."""

    def own_tensors(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the model's tensors, those that an ordinary model has."""

    def write_record(self, folder: Path, result: StepResult) -> None:
        """Write what a conversion must know."""
