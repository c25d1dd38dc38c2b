"""Attention over keys and values that are spike counts, in plain torch: the oracle of native kernels.

A *row* holds one key or value of one head in bytes: the packed counts (`packing.pack`), then for every group of
inputs its scale (float32) and, for counts from 0, its zero point (one byte). Being the last axis of an ordinary tensor,
rows can be cut, reordered and repeated by any cache.

    scores = s · (q · k - z Σ q),   y = Σ p s (v - z)          one q or p added or subtracted per spike
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spikeconv.ops.accumulation import unfold_step
from spikeconv.ops.encoding import encode, rotate, square_sum
from spikeconv.ops.packing import LANES, pack, unpack

__all__ = ["attend", "encode_rows", "pack_rows", "row_bytes", "unpack_rows"]

SCALE_BYTES = 4
States = tuple[Tensor, Tensor, Tensor | None]
"""Counts [..., groups, group], scale [..., groups, 1] float32 and zero point [..., groups, 1] int32 or None."""

Product = Callable[[Tensor, Tensor], Tensor]
"""Of floats [..., n, m] with counts [..., m, l]."""

QUERIES = 256
"""Queries whose scores are held at once."""


def row_bytes(head_dim: int, bits: int, group: int, symmetric: bool) -> int:
    """Bytes of a row of `head_dim` counts with one scale for every `group` of them."""
    return -(-head_dim // LANES) * bits + head_dim // group * (SCALE_BYTES + (not symmetric))


def encode_rows(
    x: Tensor,
    signs: Tensor,
    bases: list[Tensor],
    power: int,
    bits: int,
    group: int,
    symmetric: bool,
    clip_ratios: list[float],
    with_statistics: bool,
) -> tuple[Tensor, Tensor]:
    """Rows of keys or values, rotated; of several ranges every group takes the one with the least error.

    Args:
        x: [..., head_dim], any float dtype.
        signs, bases, power: the rotation, as in `rotate`.
        bits: bits of a count, 2 to 8.
        group: inputs that share a scale.
        symmetric: counts in [-2^(b-1), 2^(b-1)-1], or from 0 to 2^b-1 with a zero point. A scale of signed counts
            has the sign that gives the largest input, clipped, the count -2^(b-1).
        clip_ratios: shares of a group's range to try. Errors Σ (s (k - z) - u)² are float32 sums in the order of
            RMSNorm's; between equal ones the first ratio stays.
        with_statistics: whether to count spikes.

    Returns:
        uint8 [..., row_bytes] and, as in `encode`, statistics int64 [2] or [0].
    """
    u = rotate(x, signs, bases, power).unflatten(-1, (-1, group))
    low, high = (1 - (1 << bits - 1), 1 << bits - 1) if symmetric else (0, (1 << bits) - 1)
    if symmetric:  # encoded with its largest input positive, in a range turned over
        turn = torch.where(u.amax(-1, keepdim=True) > -u.amin(-1, keepdim=True), -1.0, 1.0)
        u = -turn * u
    best: list[Tensor] = []
    least = torch.empty(0)
    for ratio in clip_ratios:
        *encoded, _ = encode(u, None, [], 1, None, 0.0, low, high, symmetric, ratio, "none", 0.0, False)
        counts, scale, zero = encoded
        error = square_sum(scale * (counts - zero) - u)
        if best:
            better = error < least
            encoded = [torch.where(better, new, old) for new, old in zip(encoded, best, strict=True)]
            error = torch.where(better, error, least)
        best, least = encoded, error
    counts, scale, zero = best
    if symmetric:
        counts, scale = -counts, turn * scale
    statistics = scale.new_zeros(0, dtype=torch.int64)
    if with_statistics:
        statistics = torch.stack((counts.short().abs().sum(), counts.numel() - counts.count_nonzero()))
    return pack_rows(counts, scale, None if symmetric else zero, bits), statistics


def pack_rows(counts: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    """Rows of encoded states.

    Args:
        counts: [..., groups, group] int8 or int16, of `bits` bits; from 0 if there is a zero point.
        scale: [..., groups, 1] float32.
        zero_point: [..., groups, 1] int32, or None for signed counts.
        bits: 2 to 8.

    Returns:
        uint8 [..., row_bytes].
    """
    leading = counts.shape[:-2]
    signed = counts if zero_point is None else counts - (1 << bits - 1)
    parts = [
        pack(signed.to(torch.int8).reshape(-1, counts.shape[-2] * counts.shape[-1]), bits).view(*leading, -1),
        scale.contiguous().view(torch.uint8).view(*leading, -1),
    ]
    if zero_point is not None:
        parts.append(zero_point.to(torch.uint8).view(*leading, -1))
    return torch.cat(parts, -1)


def unpack_rows(rows: Tensor, head_dim: int, bits: int, group: int, symmetric: bool) -> States:
    """Counts, scale and zero point of rows [..., row_bytes]; the inverse of `pack_rows`."""
    leading, groups = rows.shape[:-1], head_dim // group
    words = -(-head_dim // LANES)
    packed, rest = rows.split((words * bits, rows.shape[-1] - words * bits), -1)
    counts = unpack(packed.reshape(-1, words, bits), head_dim).view(*leading, groups, group)
    scale = rest[..., : groups * SCALE_BYTES].contiguous().view(torch.float32).view(*leading, groups, 1)
    if symmetric:
        return counts, scale, None
    zero_point = rest[..., groups * SCALE_BYTES :].int().view(*leading, groups, 1)
    return counts.short() + (1 << bits - 1), scale, zero_point


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float,
    bits: int,
    group: int,
    symmetric: bool,
    execution: str,
) -> Tensor:
    """Attention with keys and values that are used as counts.

    Args:
        query: [batch, heads, tokens, head_dim], any float dtype, rotated as the keys were.
        keys: uint8 [batch, key heads, length, row_bytes]; heads are a multiple of key heads.
        values: the same.
        mask: added to the scores, broadcast to [batch, heads, tokens, length], or None.
        scaling: what the scores are multiplied by.
        bits: bits of a count.
        group: inputs that share a scale.
        symmetric: whether counts are signed.
        execution: "dense" (products by counts) or "unfold" (one addition per spike); anything else is dense.

    Returns:
        [batch, heads, tokens, head_dim] float32. The executions differ in the order of float additions only.
    """
    batch, heads, tokens, head_dim = query.shape
    key_heads = keys.shape[1]
    k, v = (unpack_rows(rows, head_dim, bits, group, symmetric) for rows in (keys, values))
    multiply = _dense if execution != "unfold" else _unfold(1 << bits - 1 if symmetric else (1 << bits) - 1)
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], tokens, mask.shape[-1])
    outputs = []
    for start in range(0, tokens, QUERIES):
        q = query[:, :, start : start + QUERIES].float().view(batch, key_heads, heads // key_heads, -1, head_dim)
        scores = _scores(q, k, multiply) * scaling
        if mask is not None:
            part = mask[..., start : start + QUERIES, :].float()
            scores = scores + part.expand(batch, heads, *part.shape[-2:]).view(scores.shape)
        outputs.append(_mean(scores.softmax(-1), v, multiply).view(batch, heads, -1, head_dim))
    return torch.cat(outputs, 2)


def _dense(x: Tensor, counts: Tensor) -> Tensor:
    return x @ counts.float()


def _unfold(steps: int) -> Product:
    def product(x: Tensor, counts: Tensor) -> Tensor:
        return torch.stack([x @ unfold_step(counts, step).float() for step in range(steps)]).sum(0)

    return product


def _scores(q: Tensor, states: States, multiply: Product) -> Tensor:
    """[batch, key heads, repeats, tokens, length] of q [batch, key heads, repeats, tokens, head_dim] and keys."""
    parts = []
    for part, (k, s, z) in zip(q.split(states[0].shape[-1], -1), _groups(states), strict=True):
        acc = multiply(part, k.mT)
        parts.append((acc if z is None else acc - part.sum(-1, keepdim=True) * z.mT) * s.mT)
    return torch.stack(parts).sum(0)


def _mean(p: Tensor, states: States, multiply: Product) -> Tensor:
    """[batch, key heads, repeats, tokens, head_dim] of weights p [batch, key heads, repeats, tokens, length]."""
    outputs = []
    for v, s, z in _groups(states):
        weights = p * s.mT
        acc = multiply(weights, v)
        outputs.append(acc if z is None else acc - weights @ z.float())
    return torch.cat(outputs, -1)


def _groups(states: States) -> list[States]:
    """Counts [batch, key heads, 1, length, group], scale and zero point [..., length, 1] of every group of inputs."""
    counts, scale, zero = (None if part is None else part[:, :, None].unbind(-2) for part in states)
    assert counts is not None and scale is not None
    return list(zip(counts, scale, zero or [None] * len(counts), strict=True))
