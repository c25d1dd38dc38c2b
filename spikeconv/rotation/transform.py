"""The rotation of one input size: `u = H D x / √m`, block by block.

γ-SQP (SDLLM, section 4.1) applies it online to the true input of a linear, γ included, and offline to the rows of the
weight; since H D is orthogonal, `(H D x) · (H D w) = x · w` before rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from spikeconv import ops
from spikeconv.rotation.orders import factorize, hadamard_matrix, largest_order
from spikeconv.rotation.signs import random_signs

__all__ = ["Rotation"]


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
        return ops.rotate(x, self.on(x.device))  # type: ignore[no-any-return]

    def inverse(self, u: Tensor) -> Tensor:
        """x of u = rotation(x), [..., size] float32: the transposed matrices, then the signs."""
        x: Tensor = ops.rotate(u, self.transposed_on(u.device))
        return x * self.on(u.device)[0].flatten()

    def on(self, device: torch.device) -> list[Tensor]:
        """Signs [size / 2^k, 2^k] and dense ±1 base matrices on a device, as the ops take them; cached and shared."""
        if not torch.compiler.is_compiling():
            return _tensors(self, device)
        return _constants(self, device)  # type: ignore[no-any-return]

    def transposed_on(self, device: torch.device) -> list[Tensor]:
        """The same of the transposed matrix, with signs of 1: `inverse` multiplies by those of `on` afterwards."""
        if not torch.compiler.is_compiling():
            return _transposed(self, device)
        return _transposed_constants(self, device)  # type: ignore[no-any-return]

    def additions(self) -> int:
        """Additions of one transform by fast butterflies (2^k) and dense base matrices, per token."""
        return self.size * sum(f.bit_length() - 1 if f & (f - 1) == 0 else f - 1 for f in self.factors)


@torch.compiler.assume_constant_result
def _constants(rotation: Rotation, device: torch.device) -> list[Tensor]:
    """What a compiler takes as given: it would trace the search for Hadamard orders, look by look."""
    return _tensors(rotation, device)


@torch.compiler.assume_constant_result
def _transposed_constants(rotation: Rotation, device: torch.device) -> list[Tensor]:
    return _transposed(rotation, device)


MOST_ROTATIONS = 4096
"""That are kept at hand. Whoever points to the tensors of one holds them: what is not used for long is dropped here."""


@lru_cache(MOST_ROTATIONS)
def _tensors(rotation: Rotation, device: torch.device) -> list[Tensor]:
    orders = rotation.factors
    power = orders[-1] if not orders[-1] & (orders[-1] - 1) else 1
    bases = [_base(m, device) for m in orders if m & (m - 1)]
    with _plainly():
        return [random_signs(rotation.size, rotation.seed).view(-1, power).to(device), *bases]


@lru_cache(MOST_ROTATIONS)
def _transposed(rotation: Rotation, device: torch.device) -> list[Tensor]:
    """Those of the transposed matrix without the signs, which come last there."""
    signs, *bases = _tensors(rotation, device)
    with _plainly():
        return [torch.ones_like(signs), *(_transposed_base(base.shape[0], device) for base in bases)]


@cache
def _base(order: int, device: torch.device) -> Tensor:
    with _plainly():
        return hadamard_matrix(order).to(device, torch.float32)


@cache
def _transposed_base(order: int, device: torch.device) -> Tensor:
    with _plainly():
        return _base(order, device).mT.contiguous()


@contextmanager
def _plainly() -> Iterator[None]:
    """The caches outlive the mode that they are filled in: no inference, fake or traced tensors, no default device."""
    with torch.inference_mode(False), _disable_current_modes(), torch.device("cpu"):
        yield
