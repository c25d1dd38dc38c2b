"""The rotation of one input size: `u = H D x / √m`, block by block.

γ-SQP (SDLLM, section 4.1) applies it online to the true input of a linear, γ included, and offline to the rows of the
weight; since H D is orthogonal, `(H D x) · (H D w) = x · w` before rounding.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.rotation.orders import factorize, hadamard_matrix, largest_order
from spikeconv.rotation.signs import random_signs

__all__ = ["Rotation"]

LARGEST_PASS = 64
"""A power of two is split into passes of at most this order: small matrix products beat long butterflies in torch."""


@dataclass(frozen=True)
class Rotation:
    """Randomized Hadamard transform of the last axis of size `size`.

    Where no Hadamard matrix of that size is known, `size / order` diagonal blocks of the largest known order stand in;
    `describe` says so.
    """

    size: int
    seed: int

    @property
    def order(self) -> int:
        """Order of one diagonal block."""
        return self.size if factorize(self.size) is not None else largest_order(self.size)

    @property
    def factors(self) -> tuple[int, ...]:
        """Orders whose Kronecker product is one block."""
        return factorize(self.order) or (1,)

    def describe(self) -> str:
        """`12·128`, or `428 blocks of 32` where the size has no known Hadamard matrix."""
        blocks, shape = self.size // self.order, "·".join(map(str, self.factors))
        return shape if blocks == 1 else f"{blocks} blocks of {shape}"

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate [..., size] of any float dtype; float32 comes out."""
        signs, factors = _constants(self, x.device)
        return ops.rotate(x, signs, factors)  # type: ignore[no-any-return]

    def additions(self) -> int:
        """Additions of one transform by fast butterflies (2^k) and dense base matrices, per token."""
        return self.size * sum(f.bit_length() - 1 if f & (f - 1) == 0 else f - 1 for f in self.factors)


@torch.compiler.assume_constant_result
def _constants(rotation: Rotation, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """What a compiler takes as given: it would trace the search for Hadamard orders, look by look."""
    return _tensors(rotation, device)


@lru_cache(maxsize=256)
def _tensors(rotation: Rotation, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    passes = [part for factor in rotation.factors for part in _passes(factor)]
    assert prod(passes) == rotation.order
    # Inference tensors may not be saved for backward; this cache outlives the mode it is filled in.
    with torch.inference_mode(False):
        signs = random_signs(rotation.size, rotation.seed).to(device)
        return signs, [hadamard_matrix(p).to(device, torch.float32) for p in passes]


def _passes(factor: int) -> list[int]:
    if factor & (factor - 1) or factor <= LARGEST_PASS:
        return [factor]
    return [LARGEST_PASS, *_passes(factor // LARGEST_PASS)]
