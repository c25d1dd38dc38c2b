"""Scores of channels, and which of them are salient (SpikeLLM)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["Scores", "select"]


@dataclass
class Scores:
    """Sums over tokens of what channels score, float64, and how many tokens those are."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    tokens: int = 0

    def add(self, sums: Tensor, tokens: int) -> None:
        """Add the sums over so many tokens."""
        self.total = self.total + sums
        self.tokens += tokens

    def salient(self, low_share: float, what: str) -> Tensor:
        """The salient channels uint8 [n] by the mean score, of all axes in one.

        Raises:
            SpikeconvError: a score is not finite; `what` says of what.
        """
        if not self.total.isfinite().all():
            raise SpikeconvError(f"The {what} is not finite on the calibration text.")
        return select((self.total / max(1, self.tokens)).flatten(), low_share)


def select(scores: Tensor, low_share: float) -> Tensor:
    """uint8 [n]: 1 where a score [n] is above the ⌊low_share · n⌋-th smallest."""
    low = int(low_share * len(scores))
    if not low:
        return torch.ones(len(scores), dtype=torch.uint8)
    return (scores > scores.sort().values[low - 1]).to(torch.uint8)
