"""The arithmetic in plain torch: the oracle that every native back end must match.

    u   = H D x / √n                                  rotate
    k   = clamp(round(u / s) + z, k_min, k_max)       encode_counts
    acc = Σ_i k_i W[:, i]                             accumulate, int32, in one of three executions

The three executions give the same int32 accumulators bit for bit (SDLLM, theorems 2 and 4): `unfold` adds signed
columns over T' virtual steps, `events` adds the columns of the non-zero counts, `dense` is one integer product.
"""

import torch
from torch import Tensor

from spikeconv.ops.packing import unpack

__all__ = ["accumulate", "encode_counts", "rotate", "unfold_step"]

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and so every partial sum of integers, is a float32."""


def rotate(x: Tensor, signs: Tensor, factors: list[Tensor]) -> Tensor:
    """Block-diagonal randomized Hadamard transform of the last axis, in float32.

    Args:
        x: [..., n], any float dtype.
        signs: [n] float32, ±1.
        factors: square ±1 float32 matrices; a block is their Kronecker product, of order m = Π factor orders, m | n.

    Returns:
        [..., n] float32; `(H_1 ⊗ H_2 ⊗ …) D x / √m` in each block of m.
    """
    u = x.float() * signs
    order = 1
    for factor in factors:
        order *= factor.shape[0]
    u = u.reshape(-1, order)
    for factor in factors:
        # One factor per pass: it acts on the leading axis, which then moves to the end, so that after all passes
        # the axes are back in place.
        u = (u.unflatten(1, (factor.shape[0], -1)).mT @ factor.mT).flatten(1)
    return u.mul(order**-0.5).view(x.shape)


def encode_counts(
    u: Tensor, count_min: int, count_max: int, symmetric: bool, clip_ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Step one of SDLLM's encoding (eq. 9 and 16): integer spike counts with one scale per token.

    Args:
        u: [..., n] float32, the membrane potential.
        count_min: smallest count.
        count_max: largest count; the clipped maximum of a token lands on it.
        symmetric: True for signed counts; False for counts from 0 with a zero point.
        clip_ratio: share of the token's range that is kept.

    Returns:
        counts [..., n] int8 (int16 if eight bits do not hold them), scale [..., 1] float32 and
        zero_point [..., 1] int32, with u ≈ scale · (counts - zero_point). A token with NaN or infinity keeps a
        non-finite scale, so that it cannot pass for a number.
    """
    u = u.contiguous()
    if symmetric:
        scale = clip_ratio * u.abs().amax(-1, keepdim=True) / count_max
    else:
        low = clip_ratio * u.amin(-1, keepdim=True).clamp_max(0)
        high = clip_ratio * u.amax(-1, keepdim=True).clamp_min(0)
        scale = (high - low) / (count_max - count_min)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.zeros_like(scale) if symmetric else (-low / scale).round_()
    counts = (u / scale).round_().add_(zero).clamp_(count_min, count_max).nan_to_num_(0)
    dtype = torch.int8 if count_min >= -128 and count_max <= 127 else torch.int16
    return counts.to(dtype), scale, zero.nan_to_num_(0).int()


def unfold_step(counts: Tensor, step: int) -> Tensor:
    """Spikes of virtual step `step` (from 0): sign(k) while step < |k|, so that they sum to k over the steps."""
    return counts.sign() * (counts.short().abs() > step)  # int8 has no |-128|


def accumulate(counts: Tensor, weight: Tensor, largest_count: int, execution: str) -> Tensor:
    """Signed column accumulation of integer weights by spike counts.

    Args:
        counts: [..., in] int8 or int16, |counts| ≤ largest_count.
        weight: [out, ceil(in/8), bits] uint8, packed (see `packing`).
        largest_count: bound on |counts|; the number of virtual steps of `unfold`.
        execution: "dense", "events" or "unfold".

    Returns:
        [..., out] int32, the same bits for every execution.
    """
    flat = counts.reshape(-1, counts.shape[-1])
    columns = unpack(weight, flat.shape[-1])
    run = {"dense": _dense, "events": _events, "unfold": _unfold}[execution]
    bits = weight.shape[-1]
    return run(flat, columns, largest_count, bits).view(*counts.shape[:-1], weight.shape[0])


def _dense(counts: Tensor, weight: Tensor, largest_count: int, bits: int) -> Tensor:
    """One product of integers; float32 is exact on every stretch of inputs short enough for |acc| < 2^24."""
    stretch = (EXACT_FLOAT32 - 1) // (largest_count << (bits - 1))
    parts = zip(counts.split(stretch, dim=1), weight.split(stretch, dim=1), strict=True)
    total = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    for k, w in parts:
        total += (k.float() @ w.float().mT).int()
    return total


def _events(counts: Tensor, weight: Tensor, largest_count: int, bits: int) -> Tensor:
    """Only the columns of non-zero counts are read, token by token, all in integers."""
    columns = weight.mT.contiguous()
    total = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    for token, k in enumerate(counts):
        fired = k.nonzero().squeeze(-1)
        total[token] = (columns[fired].int() * k[fired].int()[:, None]).sum(0, dtype=torch.int32)
    return total


def _unfold(counts: Tensor, weight: Tensor, largest_count: int, bits: int) -> Tensor:
    """T' steps; in each, the columns of positive spikes are added and those of negative spikes subtracted."""
    total = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    for step in range(largest_count):
        spikes = unfold_step(counts, step)
        total += _dense((spikes > 0).to(torch.int8), weight, 1, bits)
        total -= _dense((spikes < 0).to(torch.int8), weight, 1, bits)
    return total
