"""Random signs D of the rotation, the same on every machine, torch version and back end.

A one-signed input (after a ReLU, say) would put its mean into one coefficient of a plain Hadamard transform; random
signs spread it. They come from SplitMix64 (Steele et al., 2014) in counter mode, so no generator state is involved:

    D_i = 1 - 2 · (mix(seed · 2^32 + i) >> 63)
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_signs"]


def random_signs(n: int, seed: int) -> Tensor:
    """The n signs of a seed: [n] float32, ±1. A longer sequence starts with the shorter one."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z = (np.uint64(seed) << np.uint64(32)) + np.arange(1, n + 1, dtype=np.uint64)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy(1.0 - 2.0 * (z >> np.uint64(63)).astype(np.float32)).float()
