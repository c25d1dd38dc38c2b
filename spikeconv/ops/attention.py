"""Attention over keys and values that are spike counts, in plain torch: the oracle of native kernels.

A *row* holds one key or value of one head in bytes: the packed counts (`packing.pack`), then for every group of
inputs its scale (float32) and, for counts from 0, its zero point (one byte). Being the last axis of an ordinary tensor,
rows can be cut, reordered and repeated by any cache.

    scores = s · (q · k - z Σ q),   y = Σ p s (v - z)          one q or p added or subtracted per spike
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spikeconv.ops.accumulation import code_table
from spikeconv.ops.encoding import encode, histogram_of, rotate, square_sum
from spikeconv.ops.packing import LANES, pack, unpack
from spikeconv.ops.settings import EncodeSettings, RowSettings

__all__ = ["attend", "attend_slots", "encode_rows", "pack_rows", "row_bytes", "unpack_rows"]

SCALE_BYTES = 4
States = tuple[Tensor, Tensor, Tensor | None]
"""Counts [..., groups, group], scale [..., groups, 1] float32 and zero point [..., groups, 1] int32 or None."""

Product = Callable[[Tensor, Tensor], Tensor]
"""Of floats [..., n, m] with counts [..., m, l]."""

QUERIES = 256
"""Queries whose scores are held at once."""


def row_bytes(head_dim: int, settings: RowSettings) -> int:
    """Bytes of a row of `head_dim` counts with one scale for every group of them."""
    scales = head_dim // settings.group * (SCALE_BYTES + (not settings.symmetric))
    return -(-head_dim // LANES) * settings.bits + scales


def encode_rows(x: Tensor, rotation: list[Tensor], settings: list[float], histogram: bool) -> tuple[Tensor, Tensor]:
    """Rows of keys or values, rotated; of several ranges every group takes the one with the least error.

    A scale of signed counts has the sign that gives the largest input, clipped, the count -2^(b-1). Errors
    Σ (s (k - z) - u)² are float32 sums in the order of RMSNorm's; between equal ones the first clip ratio stays.

    Args:
        x: [..., head_dim], any float dtype.
        rotation: as in `rotate`.
        settings: `RowSettings.table()`.
        histogram: whether to count the counts.

    Returns:
        uint8 [..., row_bytes] and, as in `encode`, a histogram int64 [2^b], from the smallest count on, or [0].
    """
    chosen = RowSettings.of(settings, x.shape[-1])
    u = rotate(x, rotation).unflatten(-1, (-1, chosen.group))
    half = 1 << chosen.bits - 1
    low, high = (1 - half, half) if chosen.symmetric else (0, 2 * half - 1)
    if chosen.symmetric:  # encoded with its largest input positive, in a range turned over
        turn = torch.where(u.amax(-1, keepdim=True) > -u.amin(-1, keepdim=True), -1.0, 1.0)
        u = -turn * u
    best: list[Tensor] = []
    least = torch.empty(0)
    for ratio in chosen.clip_ratios:
        table = EncodeSettings(low, high, chosen.symmetric, ratio).table()
        *encoded, _ = encode(u, [], None, None, table, False)
        counts, scale, zero = encoded
        error = square_sum(scale * (counts - zero) - u)
        if best:
            better = error < least
            encoded = [torch.where(better, new, old) for new, old in zip(encoded, best, strict=True)]
            error = torch.where(better, error, least)
        best, least = encoded, error
    counts, scale, zero = best
    if chosen.symmetric:
        counts, scale = -counts, turn * scale
    bins = histogram_of(counts, chosen.count_min, chosen.bins if histogram else 0)
    return pack_rows(counts, scale, None if chosen.symmetric else zero, chosen.bits), bins


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


def unpack_rows(rows: Tensor, head_dim: int, settings: RowSettings) -> States:
    """Counts, scale and zero point of rows [..., row_bytes]; the inverse of `pack_rows`."""
    bits = settings.bits
    leading, groups = rows.shape[:-1], head_dim // settings.group
    words = -(-head_dim // LANES)
    packed, rest = rows.split((words * bits, rows.shape[-1] - words * bits), -1)
    counts = unpack(packed.reshape(-1, words, bits), head_dim).view(*leading, groups, settings.group)
    scale = rest[..., : groups * SCALE_BYTES].contiguous().view(torch.float32).view(*leading, groups, 1)
    if settings.symmetric:
        return counts, scale, None
    zero_point = rest[..., groups * SCALE_BYTES :].int().view(*leading, groups, 1)
    return counts.short() + (1 << bits - 1), scale, zero_point


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float,
    settings: list[float],
    execution: str,
) -> Tensor:
    """Attention with keys and values that are used as counts.

    Args:
        query: [batch, heads, tokens, head_dim], any float dtype, rotated as the keys were.
        keys: uint8 [batch, key heads, length, row_bytes]; heads are a multiple of key heads.
        values: the same.
        mask: added to the scores, broadcast to [batch, heads, tokens, length], or None.
        scaling: what the scores are multiplied by.
        settings: `RowSettings.table()` of keys and values.
        execution: "dense" (products by counts) or "unfold" (one addition per spike); anything else is dense.

    Returns:
        [batch, heads, tokens, head_dim] float32. The executions differ in the order of float additions only.
    """
    if execution != "unfold":
        return _attend(query, keys, values, mask, scaling, settings, _dense)
    largest = RowSettings.of(settings, query.shape[-1]).largest_count
    ones = torch.arange(largest)[:, None] < torch.arange(largest + 1)  # slot t fires while t < |k|
    digits = ones.to(device=query.device, dtype=torch.int8)
    return attend_slots(query, keys, values, mask, scaling, settings, digits, "add")


def attend_slots(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float,
    settings: list[float],
    digits: Tensor,
    membrane: str,
) -> Tensor:
    """`attend` with the counts sent slot by slot of a temporal code; in plain torch on every device.

    Args:
        query, keys, values, mask, scaling, settings: as in `attend`.
        digits: int8 [slots, largest count + 1], what |k| sends in each slot, -1, 0 or 1, times the sign of k.
        membrane: what a slot does to the sums, one of `ops.settings.MEMBRANES`.

    Returns:
        [batch, heads, tokens, head_dim] float32, equal to `attend`'s but for the order of float additions.

    Raises:
        SpikeconvError: the digits are not those of counts so large.
    """
    digits = code_table(digits, RowSettings.of(settings, query.shape[-1]).largest_count)
    with torch.autocast(query.device.type, enabled=False):
        return _attend(query, keys, values, mask, scaling, settings, _unfold(digits, membrane))


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float,
    settings: list[float],
    multiply: Product,
) -> Tensor:
    batch, heads, tokens, head_dim = query.shape
    key_heads = keys.shape[1]
    chosen = RowSettings.of(settings, head_dim)
    k, v = (unpack_rows(rows, head_dim, chosen) for rows in (keys, values))
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


def _unfold(digits: Tensor, membrane: str) -> Product:
    """Slot by slot; the sums in float64, since those of a ramp's current come again in every later slot."""

    def product(x: Tensor, counts: Tensor) -> Tensor:
        signs, magnitudes = counts.sign(), counts.short().abs().long()  # int8 has no |-128|
        shape = (*torch.broadcast_shapes(x.shape[:-2], counts.shape[:-2]), x.shape[-2], counts.shape[-1])
        total = torch.zeros(shape, dtype=torch.float64, device=x.device)
        held = torch.zeros_like(total)
        for digit in digits:
            current = (x @ (signs * digit[magnitudes]).float()).double()
            if membrane == "ramp":
                held += current
                total += held
            else:
                total = (2 * total if membrane == "double" else total) + current
        return total.float()

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
