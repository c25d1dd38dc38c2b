"""A count as the signed digits of |k|, the most significant first: V ← 2 V + I in every slot.

The digits are those of the non-adjacent form (canonic signed digits; arXiv 2408.17245 sends such spikes): each is -1, 0
or 1, no two neighbours are both non-zero, and no signed binary form has fewer non-zero digits. A slot more than
`binary` where the largest count needs one: 7 is 8 - 1, 11 is 16 - 4 - 1.
"""

import torch
from torch import Tensor

from spikeconv.codes.base import Code, Cost

__all__ = ["SignedDigit"]


class SignedDigit(Code):
    """A spike is worth a power of two, with a sign of its own."""

    name = "signed-digit"
    membrane = "double"

    def weights(self, largest: int) -> list[int]:
        """…, 4, 2, 1."""
        slots = max(sum(_form(count)).bit_length() for count in range(largest + 1))
        return [1 << (slots - 1 - slot) for slot in range(slots)]

    def digits(self, largest: int) -> Tensor:
        """The non-adjacent form of |k|."""
        forms = torch.tensor([_form(count) for count in range(largest + 1)]).T[:, None, :]
        shifts = torch.arange(self.slots(largest)).flip(0)[:, None]
        bits = ((forms >> shifts) & 1).to(torch.int8)
        return bits[0] - bits[1]

    def update(self, state: tuple[Tensor, ...], current: Tensor) -> tuple[Tensor, ...]:
        """2 V + I."""
        return (2 * state[0] + current,)

    def cost(self, largest: int) -> Cost:
        """One shift a slot."""
        slots = self.slots(largest)
        return Cost(slots, doublings=slots)


def _form(count: int) -> tuple[int, int]:
    """The digits 1 and the digits -1 of a count ≥ 0 as two sets of bits: those of 3 m / 2 and of m / 2 that differ."""
    half, more = count >> 1, count + (count >> 1)
    return more & ~half, half & ~more
