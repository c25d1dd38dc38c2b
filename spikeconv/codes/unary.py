"""SDLLM's own code (eq. 10 and 17): a count k is |k| spikes with its sign, one a slot, V ← V + I."""

import torch
from torch import Tensor

from spikeconv.codes.base import Code, Cost

__all__ = ["Unary"]


class Unary(Code):
    """Every spike is worth one; T' slots for counts up to T'."""

    name = "unary"
    membrane = "add"

    def weights(self, largest: int) -> list[int]:
        """Ones."""
        return [1] * largest

    def digits(self, largest: int) -> Tensor:
        """Slot t (from 0) fires while t < |k|."""
        return (torch.arange(largest)[:, None] < torch.arange(largest + 1)).to(torch.int8)

    def update(self, state: tuple[Tensor, ...], current: Tensor) -> tuple[Tensor, ...]:
        """V + I."""
        return (state[0] + current,)

    def cost(self, largest: int) -> Cost:
        """Nothing beside the spikes."""
        return Cost(largest)
