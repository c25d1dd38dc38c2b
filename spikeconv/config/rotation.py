"""What is rotated."""

from typing import Literal

from pydantic import Field

from spikeconv.config.base import Settings, Whole

__all__ = ["RotationSettings"]


class RotationSettings(Settings):
    """The randomized Hadamard transform in front of a linear."""

    kind: Literal["gamma-sqp", "quarot", "none"] = Field(
        "gamma-sqp", description="gamma-sqp: γ stays on the activations; quarot: γ is folded into the weights"
    )
    # Of the seeds 0 to 3 the best on the embedded model; docs/benchmarks/rotation.md shows how far they spread.
    seed: Whole = Field(2, ge=0, lt=2**32, description="seed of the random signs")

    @property
    def is_none(self) -> bool:
        """Whether nothing is rotated."""
        return self.kind == "none"
