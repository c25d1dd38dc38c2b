"""A count as the binary digits of |k|, all with the sign of k, the most significant first: V ← 2 V + I in every slot.

As many slots as the largest count has bits, and as many spikes as |k| has ones (radix coding).
"""

import torch
from torch import Tensor

from spikeconv.codes.base import Code, Cost

__all__ = ["Binary"]


class Binary(Code):
    """A spike is worth a power of two."""

    name = "binary"
    membrane = "double"

    def weights(self, largest: int) -> list[int]:
        """…, 4, 2, 1."""
        bits = largest.bit_length()
        return [1 << (bits - 1 - slot) for slot in range(bits)]

    def digits(self, largest: int) -> Tensor:
        """The bits of |k|."""
        shifts = torch.arange(largest.bit_length()).flip(0)[:, None]
        return ((torch.arange(largest + 1) >> shifts) & 1).to(torch.int8)

    def update(self, state: tuple[Tensor, ...], current: Tensor) -> tuple[Tensor, ...]:
        """2 V + I."""
        return (2 * state[0] + current,)

    def cost(self, largest: int) -> Cost:
        """One shift a slot."""
        slots = largest.bit_length()
        return Cost(slots, doublings=slots)
