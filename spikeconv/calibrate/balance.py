"""The diagonal balance: factors of input channels that share the difficulty between inputs and weights.

    d_i = sqrt(‖W_i‖ / rms x_i),   x' = d ∘ x,   W'_i = W_i / d_i

W_i is column i of the stacked weights of all linears that see x, and rms x_i that of the channel over calibration
tokens. Then ‖W'_i‖ rms x'_i is what it was, and both factors are alike: rounding x' and rounding W' lose alike in every
channel. SmoothQuant (Xiao et al. 2023, equation 4, with its α of 1/2) has maxima in the place of both norms:

    d_i = sqrt(max |W_i| / max |x_i|)

The mean of log d is 0.
"""

from collections.abc import Callable, Iterable, Mapping
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
        input_peak: largest magnitude of each channel of that input, [n] float64.
        weight_peak: largest magnitude in each column of the weights, [n] float64.
    """

    input_square: Tensor
    weight_square: Tensor
    input_peak: Tensor
    weight_peak: Tensor


def balance(statistics: GroupStatistics, kind: str, rows: int | None = None, head: int | None = None) -> Tensor:
    """d [n] float32.

    Args:
        statistics: of one group.
        kind: sqrt, or smoothquant.
        rows: of the linear that d will be folded into, or None: it has n.
        head: channels of a head of it that is repeated n / rows times; d agrees in the repetitions, whose squares are
            averaged, and of whose maxima the largest counts.
    """
    if kind == "smoothquant":
        x, w = (_tied(peak, rows, head, Tensor.amax) for peak in (statistics.input_peak, statistics.weight_peak))
    else:
        squares = (statistics.input_square, statistics.weight_square)
        x, w = (_tied(square, rows, head, Tensor.mean).sqrt() for square in squares)
    if not x.any() or not w.any():
        return torch.ones(len(x))
    d = (w.clamp(min=w.mean() * SMALLEST) / x.clamp(min=x.mean() * SMALLEST)).sqrt()
    return (d / d.log().mean().exp()).float()


def diagonals(
    statistics: dict[str, GroupStatistics],
    kinds: Mapping[str, str],
    layout: Iterable[ModuleLinear],
    rows: dict[str, int],
) -> dict[str, Tensor]:
    """d [n] float32 by group.

    Args:
        statistics: by group.
        kinds: what balances each group: sqrt, or smoothquant.
        layout: all linears of the model.
        rows: number of outputs of each linear, by module name.
    """
    first: dict[str, ModuleLinear] = {}
    for linear in layout:
        first.setdefault(linear.group, linear)
    found = {}
    for group, each in statistics.items():
        writer = first[group].writer
        found[group] = balance(each, kinds[group], None if writer is None else rows[writer], first[group].head)
    return found


def _tied(values: Tensor, rows: int | None, head: int | None, reduce: Callable[..., Tensor]) -> Tensor:
    """The mean or the largest of the channels that one row writes, for each of them."""
    rows = rows or len(values)
    head = head or rows
    by_head = values.view(rows // head, len(values) // rows, head)
    return reduce(by_head, 1, keepdim=True).expand_as(by_head).reshape(-1)
