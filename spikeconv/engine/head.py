"""The output head as it is read for every token: in as few bytes as its numbers need, or in eight bits by choice."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from spikeconv.nn import version_of
from spikeconv.nn.memory import large_empty

__all__ = ["BLOCK", "Head", "head_module", "head_of"]

BLOCK = 32
"""Weights that share a scale in eight bits, as in GGUF's Q8_0."""

MOST_COPIED = 256 << 20
"""Bytes of a float head of which a second copy is made, in large pages."""

ROWS = 4096
"""Rows that are looked at at once."""


class Head(NamedTuple):
    """The weights of a head: w, or w · scale of its block.

    Attributes:
        weight: float32, bfloat16 or int8 [vocabulary, hidden].
        scale: float32 [vocabulary, hidden / 32] beside int8, else None.
        is_exact: whether they are the checkpoint's numbers.
    """

    weight: Tensor
    scale: Tensor | None
    is_exact: bool


def head_module(model: Any) -> Any:
    """The output head of a model; None if it has none."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def head_of(weight: Tensor, bits: int | None = None) -> Head:
    """A float32 head in int8 or bfloat16 where that is the same numbers, as most checkpoints hold; else itself.

    A copy, or of what is not too much a copy all the same, lies in large pages: it is read once for every token. It is
    made once, for whoever asks, and lives as long as the weight.

    Args:
        weight: float32 [vocabulary, hidden].
        bits: 8 to round to int8 in blocks of 32 (the largest of a block to ±127) where that is not the same numbers;
            None: no number changes. Where `hidden` is no multiple of 32, it stays as it is.
    """
    known, state = _heads.get(weight), (weight.data_ptr(), version_of(weight))
    if known is None or known[0] != state:
        _heads[weight] = known = state, {}
    by_bits: dict[int | None, Head] = known[1]
    if bits not in by_bits:
        exact = by_bits.get(None)
        by_bits[bits] = exact if exact is not None and exact.scale is not None else _packed(weight.detach(), bits)
    return by_bits[bits]


_heads: Any = WeakTensorKeyDictionary()


def _packed(weight: Tensor, bits: int | None) -> Head:
    eighths = _in_blocks(weight, is_rounded=bits == 8) if weight.shape[1] % BLOCK == 0 else None
    if eighths is not None:
        return eighths
    if all(torch.equal(rows.bfloat16().float(), rows) for rows in weight.split(ROWS)):
        return Head(_placed(weight, torch.bfloat16), None, True)
    if weight.nbytes > MOST_COPIED:
        return Head(weight.contiguous(), None, True)
    return Head(_placed(weight, torch.float32), None, True)


def _in_blocks(weight: Tensor, is_rounded: bool) -> Head | None:
    """In int8; None where that changes a number and shall not."""
    vocabulary, hidden = weight.shape
    held, scales, is_exact = None, None, True
    for at in range(0, vocabulary, ROWS):
        blocks = weight[at : at + ROWS].unflatten(1, (-1, BLOCK))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        counts = (blocks / scale.where(scale > 0, 1.0)).round()
        is_exact = is_exact and torch.equal(counts * scale, blocks)
        if not (is_exact or is_rounded) or not scale.isfinite().all():
            return None
        if held is None or scales is None:  # only where the first rows are fit for it
            held = large_empty((vocabulary, hidden), torch.int8)
            scales = large_empty((vocabulary, hidden // BLOCK), torch.float32)
        held[at : at + ROWS] = counts.flatten(1)
        scales[at : at + ROWS] = scale[..., 0]
    assert held is not None
    return Head(held, scales, is_exact)


def _placed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    held: Tensor = large_empty(tuple(weight.shape), dtype).copy_(weight)
    return held
