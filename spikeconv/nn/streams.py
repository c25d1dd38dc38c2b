"""T streams of a network whose inputs pass neurons over T time steps (SpikeLM).

What enters the first layer is repeated T times along the batch, the first step's rows first; all layers run on all
streams, and what leaves the last is their mean. What else a layer is given for each sequence is repeated with it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["run_streams"]

SEQUENCES = 3
"""Axes from which on a tensor that a layer is given has a row for each sequence: masks, positions, other states."""


def run_streams(layers: Sequence[nn.Module], steps: int) -> None:
    """Make a stack of layers run T streams; with one step nothing is done.

    Args:
        layers: in the order in which they run; each is called with its hidden states first.
        steps: T.
    """
    if steps == 1 or not layers:
        return
    for layer in layers:
        layer.register_forward_pre_hook(partial(_repeat, steps, layer is layers[0]), with_kwargs=True)
    layers[-1].register_forward_hook(partial(_mean, steps))


def _repeat(
    steps: int, is_first: bool, _layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hidden = arguments[0] if arguments else options["hidden_states"]
    sequences = len(hidden) if is_first else len(hidden) // steps

    def repeated(value: Any) -> Any:
        if value is hidden and not is_first:
            return value
        if isinstance(value, tuple):
            return tuple(map(repeated, value))
        if not isinstance(value, Tensor) or value.dim() < SEQUENCES or len(value) != sequences:
            return value
        return torch.cat([value] * steps)

    return tuple(map(repeated, arguments)), {name: repeated(each) for name, each in options.items()}


def _mean(steps: int, _layer: nn.Module, _arguments: Any, output: Any) -> Any:
    hidden = output[0] if isinstance(output, tuple) else output
    mean = hidden.unflatten(0, (steps, -1)).mean(0)
    return (mean, *output[1:]) if isinstance(output, tuple) else mean
