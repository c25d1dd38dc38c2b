"""Leaky integrate-and-fire over token time (SpikeGPT): a token is a time step, the state goes from one to the next.

    U_t = H_(t-1) + β (Y_t - (H_(t-1) - U_reset))      charge (eq. 1, whose H[t] on the right is a misprint)
    S_t = [U_t ≥ U_threshold]                          fire
    H_t = U_t (1 - S_t) + U_reset S_t                  hard reset

U_reset is 0 here. The gradient of [x ≥ 0] is that of an arctan, α / (2 (1 + (π/2 α x)²)) with α = 2.
"""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["BETA", "THRESHOLD", "arctan_slope", "charges", "heaviside", "lif"]

BETA, THRESHOLD = 0.5, 1.0
SLOPE = 2.0
"""α of the surrogate."""


def lif(y: Tensor, potential: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The spikes of one neuron per channel, and what it keeps.

    Args:
        y: [batch, tokens, channels], any float dtype.
        potential: H [batch, channels] float32 after an earlier call; None: 0, as at the start of a sequence.

    Returns:
        Spikes 0 or 1 [batch, tokens, channels] in the dtype of y, and H [batch, channels] float32. Gradients pass both
        ways in time, also through the reset.
    """
    if potential is None:
        potential = torch.zeros_like(y[:, 0], dtype=torch.float32)
    spikes, last = _Lif.apply(y.float().transpose(0, 1), potential)
    return spikes.transpose(0, 1).to(y.dtype), last


@torch.no_grad()
def charges(y: Tensor, potential: Tensor | None = None) -> Tensor:
    """The potentials U [batch, tokens, channels] float32 of `lif`, each before its reset."""
    if potential is None:
        potential = torch.zeros_like(y[:, 0], dtype=torch.float32)
    return _charged(y.float().transpose(0, 1), potential)[0].transpose(0, 1)


def _charged(y: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """U [tokens, batch, channels], and H after the last token."""
    charged = torch.empty(y.shape, dtype=torch.float32, device=y.device)
    for drive, u in zip(y * BETA, charged, strict=True):
        torch.add(drive, potential, alpha=1 - BETA, out=u)
        potential = torch.where(u >= THRESHOLD, 0.0, u)
    return charged, potential


def heaviside(x: Tensor) -> Tensor:
    """[x ≥ 0] in the dtype of x, with the gradient of an arctan."""
    return _Heaviside.apply(x)  # type: ignore[no-any-return]


def arctan_slope(x: Tensor) -> Tensor:
    """The gradient of [x ≥ 0] as an arctan's."""
    return SLOPE / 2 / (1 + (math.pi / 2 * SLOPE * x).square())


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * arctan_slope(x)


class _Lif(torch.autograd.Function):
    """Both loops over tokens by hand: autograd would keep six tensors a token."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        charged, potential = _charged(y, potential)
        ctx.save_for_backward(charged)
        return (charged >= THRESHOLD).float(), potential

    @staticmethod
    def backward(ctx: Any, of_spikes: Tensor, of_last: Tensor) -> tuple[Tensor, Tensor]:
        (charged,) = ctx.saved_tensors
        fired = charged >= THRESHOLD
        slope = arctan_slope(charged - THRESHOLD)
        # H = U (1 - S): what comes back through H reaches U where it stayed, and S by -U.
        through = torch.where(fired, 0.0, 1.0) - charged * slope
        of_charged = of_spikes * slope
        of_potential = of_last
        for token in range(len(charged) - 1, -1, -1):
            of_potential = of_charged[token].addcmul_(of_potential, through[token]) * (1 - BETA)
        return of_charged * BETA, of_potential
