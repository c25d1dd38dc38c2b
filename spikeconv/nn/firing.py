"""Spikes of neurons with a state, with their gradients, to train through them.

A spike is worth α k. Straight through within the range: ∂s/∂m = 1 where lowest ≤ m/α ≤ 1; with `arctan` the slope of
α / (2 (1 + (π/2 α x)²)) at x = m - 1. What is left of a potential carries gradients to the step before; the spike and α
in it do not (SpikeLM's code detaches them). α learns as a step size does (LSQ, Esser et al. 2020):

    ∂s/∂α = k - m/α within the range, k beyond it,     times 1 / sqrt(number of inputs)
"""

from typing import Any

import torch
from torch import Tensor

from spikeconv.codecs import Neuron, streams_of
from spikeconv.models.lif import arctan_slope

__all__ = ["fired"]


def fired(x: Tensor, alpha: Tensor, neuron: Neuron) -> Tensor:
    """What the spikes of x are worth.

    Args:
        x: T streams, [T · rows, ..., n], the first step's rows first; any float dtype.
        alpha: [T] float32.
        neuron: its kind.

    Returns:
        α k, of the shape of x, float32; NaN where x is not finite.

    Raises:
        SpikeconvError: that many rows are no T streams.
    """
    result: Tensor = _Fired.apply(streams_of(x.float(), len(alpha)), alpha, neuron)
    return result.view(x.shape)


class _Fired(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, neuron: Neuron) -> Tensor:
        m, k = neuron.charged(x, alpha)
        ctx.save_for_backward(m, alpha)
        ctx.neuron = neuron
        return k * _by_step(alpha, k)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        m, alpha = ctx.saved_tensors
        neuron, of_spikes = ctx.neuron, gradients[0]
        scaled = m if neuron.is_lif else m / _by_step(alpha, m)
        within = (scaled >= neuron.lowest) & (scaled <= 1)
        slope = arctan_slope(m - 1) if neuron.arctan else within.to(m.dtype)
        of_m = of_spikes * slope
        for step in range(len(m) - 2, -1, -1):
            left = neuron.left(neuron.fired(m[step], alpha[step]), alpha[step])
            of_m[step].addcmul_(of_m[step + 1], left)
        of_alpha = None
        if ctx.needs_input_grad[1]:
            k = scaled.round().clamp(neuron.lowest, 1)
            share = of_spikes * torch.where(within, k - scaled, k)
            of_alpha = share.flatten(1).sum(1) / m[0].numel() ** 0.5
        return of_m, of_alpha, None


def _by_step(alpha: Tensor, like: Tensor) -> Tensor:
    return alpha.view(-1, *[1] * (like.dim() - 1))
