"""What a temporal code says: how a count k becomes spikes over the slots of a code, and what a slot does to a membrane.

    spike_t = sign(k) · digit_t(|k|) in {-1, 0, 1},   k = Σ_t weight_t · spike_t

The membrane of an output takes I_t = Σ_i spike_t,i W[:, i] slot by slot and ends at Σ_i k_i W[:, i], in integers:
whatever the code, the accumulators are those of the dense product. A code knows no scales and no layers.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Code", "Cost"]


class Cost(NamedTuple):
    """What one output neuron does for one token beside the addition of a column's entry per spike.

    Attributes:
        slots: time steps.
        doublings: shifts of the membrane by one bit.
        additions: additions of one accumulator to another.
    """

    slots: int
    doublings: int = 0
    additions: int = 0


class Code(ABC):
    """A temporal code for counts k with |k| ≤ largest."""

    name: str
    membrane: str
    """How `ops.accumulate` goes from slot to slot, one of `ops.settings.MEMBRANES`; `update` does the same."""
    accumulators = 1
    """Of a neuron: its membrane, and what else a slot changes."""

    @abstractmethod
    def weights(self, largest: int) -> list[int]:
        """What a spike of each slot is worth, in the order in which slots are sent."""

    @abstractmethod
    def digits(self, largest: int) -> Tensor:
        """int8 [slots, largest + 1] with entries in {-1, 0, 1}: what the count m = |k| sends in slot t."""

    @abstractmethod
    def update(self, state: tuple[Tensor, ...], current: Tensor) -> tuple[Tensor, ...]:
        """Accumulators after a slot with input I, the membrane first; all begin at zero."""

    @abstractmethod
    def cost(self, largest: int) -> Cost:
        """Work of one output neuron."""

    def slots(self, largest: int) -> int:
        """Time steps that counts up to `largest` take."""
        return len(self.weights(largest))

    def spikes(self, largest: int) -> Tensor:
        """int64 [largest + 1]: spikes of a count by |k|."""
        return self.digits(largest).abs().sum(0, dtype=torch.int64)

    def unfold(self, counts: Tensor, largest: int) -> Tensor:
        """The spike train int8 [slots, *counts.shape] of int8 or int16 counts, entries in {-1, 0, 1}."""
        digits = self.digits(largest).to(counts.device)
        magnitudes = counts.short().abs().long()  # int8 has no |-128|
        return digits[:, magnitudes] * counts.sign().to(torch.int8)
