"""Keys and values of all layers, in two tensors that were made beforehand."""

import torch
from torch import Tensor

from spikeconv.nn.memory import large_empty

__all__ = ["StateCache"]


class StateCache:
    """Room for the keys and values of some sequences.

    Args:
        layers, key_heads: of the model.
        width: numbers of a key: head_dim, or the bytes of a row of counts.
        slots: sequences.
        capacity: tokens of each.
        dtype: float32, bfloat16 (half the memory; keys and values are rounded), or uint8 for rows of counts.

    Attributes:
        keys, values: [layers, slots, key_heads, capacity, width].
    """

    def __init__(
        self, layers: int, key_heads: int, width: int, slots: int, capacity: int, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = (layers, slots, key_heads, capacity, width)
        self.keys, self.values = large_empty(shape, dtype), large_empty(shape, dtype)

    @property
    def slots(self) -> int:
        """Sequences."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens of a sequence."""
        return self.keys.shape[3]

    def grow(self, capacity: int, length: int) -> None:
        """Make room for more tokens; what the first `length` places hold stays."""
        self.keys, self.values = (_grown(states, capacity, length) for states in (self.keys, self.values))


def _grown(states: Tensor, capacity: int, length: int) -> Tensor:
    result = large_empty((*states.shape[:3], capacity, states.shape[4]), states.dtype)
    result[:, :, :, :length] = states[:, :, :, :length]
    return result
