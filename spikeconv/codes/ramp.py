"""A count as the times of its spikes, on a membrane whose input current stays: C ← C + I, then V ← V + C.

A spike in slot t of n (from 0) is in the current for n - t slots, and that is what it is worth: n, …, 2, 1. It is the
signed form of time to first spike, with several spikes where one cannot reach the count; a current-based
integrate-and-fire neuron without leak reads it.

A count is sent with the fewest spikes, at most one a slot. They all have the sign of k: m spikes reach every sum from
1 + … + m to n + … + (n - m + 1), so m is the least whose highest sum is |k| or more; a spike of the other sign would
leave more than that sum of m - 1 spikes to the rest. Of the trains that are left, that one is sent whose last spike is
the earliest, and of those again the one whose first spike is (then the second, …).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv.codes.base import Code, Cost
from spikeconv.config.code import too_few_slots
from spikeconv.errors import SpikeconvError

__all__ = ["Ramp"]


@dataclass(frozen=True)
class Ramp(Code):
    """A spike is worth the slots that are left.

    Attributes:
        slots_wanted: time steps n; None takes as many as the largest count, so that one spike says any count.
    """

    slots_wanted: int | None = None

    name = "ramp"
    membrane = "ramp"
    accumulators = 2

    def weights(self, largest: int) -> list[int]:
        """n, …, 2, 1.

        Raises:
            SpikeconvError: all slots together do not reach the largest count.
        """
        slots = largest if self.slots_wanted is None else self.slots_wanted
        if why := too_few_slots(slots, largest):
            raise SpikeconvError(why)
        return list(range(slots, 0, -1))

    def digits(self, largest: int) -> Tensor:
        """A one in each slot of the train."""
        weights = self.weights(largest)
        table = torch.zeros((len(weights), largest + 1), dtype=torch.int8)
        sent = [(len(weights) - worth, count) for count in range(largest + 1) for worth in _train(count, len(weights))]
        if sent:
            table[tuple(torch.tensor(sent).T)] = 1
        return table

    def update(self, state: tuple[Tensor, ...], current: Tensor) -> tuple[Tensor, ...]:
        """C + I, and V with that added."""
        membrane, held = state
        held = held + current
        return membrane + held, held

    def cost(self, largest: int) -> Cost:
        """One addition of the current to the membrane a slot."""
        slots = self.slots(largest)
        return Cost(slots, additions=slots)


def _train(count: int, slots: int) -> list[int]:
    """What the spikes of a count ≥ 0 are worth, the last one first."""
    spikes = next(m for m in range(slots + 1) if m * (2 * slots - m + 1) // 2 >= count)
    if not spikes:
        return []
    # The last spike is worth as much as it can be, which leaves a run of neighbours and less than one for each other.
    lowest = (count - spikes * (spikes - 1) // 2) // spikes
    train = list(range(lowest, lowest + spikes))
    left = count - sum(train)
    for i in range(spikes - 1, 0, -1):
        more = min(left, slots - (spikes - 1 - i) - train[i])
        train[i] += more
        left -= more
    return train
