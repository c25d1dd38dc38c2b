"""Random arguments for the ops."""

from typing import Any

import torch
from torch import Tensor

from spikeconv import ops


def random_counts(shape: tuple[int, ...], low: int, high: int) -> Tensor:
    """Counts in [low, high], int8 where they fit."""
    return torch.randint(low, high + 1, shape).to(torch.int8 if low >= -128 and high <= 127 else torch.int16)


def random_weight(rows: int, columns: int, bits: int) -> Tensor:
    """Random integers, with rows of nothing but the extremes."""
    weight = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, columns)).to(torch.int8)
    weight[0], weight[-1] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return weight


def linears_arguments(
    outputs: tuple[int, ...], tokens: int, bits: int, zero: bool, bias: torch.dtype | None
) -> list[Any]:
    """CPU arguments of `linears` up to the settings, weights packed."""
    low, high = (0, 15) if zero else (-8, 7)
    weights = [random_weight(n, 90, bits) for n in outputs]
    operands = [
        (
            ops.pack(w, bits),
            torch.rand(n),
            w.sum(1, dtype=torch.int32) if zero else None,
            torch.randn(n).to(bias) if bias else None,
        )
        for w, n in zip(weights, outputs, strict=True)
    ]
    return [
        random_counts((tokens, 90), low, high),
        torch.rand(tokens, 1),
        torch.randint(0, 15, (tokens, 1), dtype=torch.int32) if zero else None,
        [tensor for member in operands for tensor in member],
    ]


def to(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [to(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value
