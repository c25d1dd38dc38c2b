"""Signed column accumulation in plain torch: the oracle of the native products.

    acc = Σ_i k_i W[:, i]                       accumulate, int32, in one of three executions
    y   = (acc - z Σ_i W[:, i]) · s · s_w + b   linears

The three executions give the same int32 accumulators bit for bit (SDLLM, theorems 2 and 4): `unfold` adds signed
columns over T' virtual steps, `events` adds the columns of the non-zero counts, `dense` is one integer product. `auto`
is whichever of the last two the weight's layout is made for.
"""

import torch
from torch import Tensor

from spikeconv.ops.packing import unpack_arranged

__all__ = ["accumulate", "linears", "unfold_step"]

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and so every partial sum of integers, is a float32."""


def unfold_step(counts: Tensor, step: int) -> Tensor:
    """Spikes of virtual step `step` (from 0): sign(k) while step < |k|, so that they sum to k over the steps."""
    return counts.sign() * (counts.short().abs() > step)  # int8 has no |-128|


def accumulate(
    counts: Tensor, weight: Tensor, out_features: int, bits: int, largest_count: int, execution: str
) -> Tensor:
    """Signed column accumulation of integer weights by spike counts.

    Args:
        counts: [..., in] int8 or int16, |counts| ≤ largest_count.
        weight: uint8, packed or arranged (see `packing`).
        out_features: outputs of the weight.
        bits: bits of a weight.
        largest_count: bound on |counts|; the number of virtual steps of `unfold`.
        execution: "auto", "dense", "events" or "unfold".

    Returns:
        [..., out] int32, the same bits for every execution and layout.
    """
    flat = counts.reshape(-1, counts.shape[-1])
    columns = unpack_arranged(weight, out_features, flat.shape[-1], bits)
    run = {"auto": _dense, "dense": _dense, "events": _events, "unfold": _unfold}[execution]
    return run(flat, columns, largest_count, bits).view(*counts.shape[:-1], out_features)


def linears(
    counts: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    weights: list[Tensor],
    weight_scales: list[Tensor],
    weight_sums: list[Tensor],
    biases: list[Tensor],
    bits: int,
    largest_count: int,
    dtype: torch.dtype,
    execution: str,
) -> list[Tensor]:
    """The outputs of several linears that share an encoded input.

    Args:
        counts: [..., in] int8 or int16.
        scale: [..., 1] float32 per token.
        zero_point: [..., 1] int32 per token, or None for signed counts.
        weights: one weight per linear, packed or arranged.
        weight_scales: float32 [out] each.
        weight_sums: int32 [out] each, the row sums that the zero point multiplies; empty without zero point.
        biases: [out] each in any float dtype, or empty.
        bits: bits of a weight.
        largest_count: bound on |counts|.
        dtype: of the outputs.
        execution: "auto", "dense" or "events".

    Returns:
        One tensor [..., out] per linear.
    """
    outputs = []
    for i, (weight, weight_scale) in enumerate(zip(weights, weight_scales, strict=True)):
        acc = accumulate(counts, weight, weight_scale.shape[0], bits, largest_count, execution)
        if zero_point is not None:
            acc = acc - zero_point * weight_sums[i]
        y = acc.float() * scale * weight_scale
        outputs.append((y + biases[i].float() if biases else y).to(dtype))
    return outputs


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
