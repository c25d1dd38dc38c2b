"""The diagonal balance: factors of input channels that share the difficulty between inputs and weights.

    d_i = sqrt(‖W_i‖ / rms x_i),   x' = d ∘ x,   W'_i = W_i / d_i

W_i is column i of the stacked weights of all linears that see x, and rms x_i that of the channel over calibration
tokens. Then ‖W'_i‖ rms x'_i is what it was, and both factors are alike: rounding x' and rounding W' lose alike in every
channel. (SmoothQuant, Xiao et al. 2023, has maxima in the place of both norms.) The mean of log d is 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv.families import ModuleLinear

__all__ = ["GroupStatistics", "balance", "diagonals"]

SMALLEST = 1e-3
"""A channel's norms count as at least this share of the mean: one that is silent in the text may speak in another."""


@dataclass
class GroupStatistics:
    """What is known of the linears of one input.

    Attributes:
        input_square: mean square of each channel of the input over tokens, [n] float64; with its constant part taken
            off, where the encoder takes it off.
        weight_square: sum of squares of each column of all their weights, [n] float64.
    """

    input_square: Tensor
    weight_square: Tensor


def balance(statistics: GroupStatistics, rows: int | None = None, head: int | None = None) -> Tensor:
    """d [n] float32.

    Args:
        statistics: of one group.
        rows: of the linear that d will be folded into, or None: it has n.
        head: channels of a head of it that is repeated n / rows times; d agrees in the repetitions, whose squares are
            averaged.
    """
    x, w = (_tied(square, rows, head).sqrt() for square in (statistics.input_square, statistics.weight_square))
    if not x.any() or not w.any():
        return torch.ones(len(x))
    d = (w.clamp(min=w.mean() * SMALLEST) / x.clamp(min=x.mean() * SMALLEST)).sqrt()
    return (d / d.log().mean().exp()).float()


def diagonals(
    statistics: dict[str, GroupStatistics], layout: Iterable[ModuleLinear], rows: dict[str, int]
) -> dict[str, Tensor]:
    """d [n] float32 by group.

    Args:
        statistics: by group.
        layout: all linears of the model.
        rows: number of outputs of each linear, by module name.
    """
    first: dict[str, ModuleLinear] = {}
    for linear in layout:
        first.setdefault(linear.group, linear)
    return {
        group: balance(each, None if first[group].writer is None else rows[str(first[group].writer)], first[group].head)
        for group, each in statistics.items()
    }


def _tied(square: Tensor, rows: int | None, head: int | None) -> Tensor:
    """The mean over the channels that one row writes, for each of them."""
    rows = rows or len(square)
    head = head or rows
    by_head = square.view(rows // head, len(square) // rows, head)
    return by_head.mean(1, keepdim=True).expand_as(by_head).reshape(-1)
