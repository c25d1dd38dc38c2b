"""SDLLM's quantile-smoothed ReLU in a float model (section 4.4, appendix B), to calibrate its τ and to train with it.

The input x of some linears becomes A⁻¹ clip(A x), with A the rotation that the conversion will use. The linears keep
their weights, so that the model stays an ordinary one; converted, the encoder clips and the weights are rotated.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.codecs import CountCodec
from spikeconv.config import ClipSettings, CountInputs, LinearScheme
from spikeconv.nn.gradients import flow, rotated, turned_back, version_of
from spikeconv.rotation import Rotation

__all__ = ["MembraneClip", "quantile_of"]


class MembraneClip:
    """A forward pre-hook of linears with one input; τ is a moving average of its q-quantile.

    Between two calls of `update` τ stays as it is, so that gradient checkpointing can run a forward twice.

    Args:
        in_features: n.
        scheme: q, the mode, and the rotation; its counts are those of the firing rate.
        center: a LayerNorm whose bias [n] is a constant part of the input, which no encoder sees.
    """

    def __init__(self, in_features: int, scheme: LinearScheme, center: Any = None) -> None:
        if scheme.clip is None:
            raise ValueError("the scheme clips nothing")
        self.settings: ClipSettings = scheme.clip
        self.scheme, self.center = scheme, center
        self.rotation = None if scheme.rotation.is_none else Rotation(in_features, scheme.rotation.seed)
        self.linears: list[str] = []
        self.threshold: Tensor | None = None
        """τ, 0-d float32; None before the first input, which is clipped at its own quantile."""
        self.measures_rate = False
        self.rate: float | None = None
        """Firing rate of the latest input while `measures_rate`; None where the scheme has no spikes."""
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        """If set, told of x and of what would be left of it; then the linears see x itself."""
        self._quantiles: list[Tensor] = []
        self._last: tuple[weakref.ref[Tensor], list[object], Tensor] | None = None

    def attach(self, name: str, linear: nn.Module) -> None:
        """Clip the input of a linear of this name from now on."""
        self.linears.append(name)
        linear.register_forward_pre_hook(self._hook)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., n] with its membrane potential clipped, in the dtype of x; gradients pass where something is left."""
        constant = 0 if self.center is None else self.center.bias.float()
        clipped = self._clip(x.float() - constant) + constant
        if self.observer is not None:
            self.observer(x.float(), clipped)
            return x
        return clipped.to(x.dtype)

    def update(self, momentum: float, mean: Callable[[Tensor], Tensor] = lambda quantile: quantile) -> None:
        """τ ← m τ + (1 - m) quantile, of everything seen since the last time.

        Args:
            momentum: m, 0 to 1.
            mean: takes the mean over the processes of a distributed run.
        """
        if not self._quantiles:
            return
        self._last = None
        quantile = mean(torch.stack(self._quantiles).mean())
        self._quantiles = []
        self.threshold = quantile if self.threshold is None else momentum * self.threshold + (1 - momentum) * quantile

    def _clip(self, u: Tensor) -> Tensor:
        if self.rotation is not None:
            u = rotated(u, self.rotation)
        seen = quantile_of(u.detach(), self.settings.quantile, self.settings.mode)
        self._quantiles.append(seen)
        u = ops.clip_potential(u, self.settings.mode, seen if self.threshold is None else self.threshold)
        if self.measures_rate:
            self.rate = self._rate_of(u.detach())
        if self.rotation is not None:
            u = turned_back(u, self.rotation)
        return u

    def _hook(self, linear: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        """The clipped input, computed once for all linears that are given the same tensor."""
        (x,) = arguments
        # A threshold is replaced, never changed in place.
        state: list[object] = [version_of(x), flow(x), id(self.threshold), self.observer]
        last = self._last
        if last is None or last[0]() is not x or last[1] != state:
            last = self._last = weakref.ref(x), state, self(x)
        return (last[2],)

    def _rate_of(self, clipped: Tensor) -> float | None:
        if not isinstance(self.scheme.inputs, CountInputs):
            return None
        codec = replace(CountCodec.of(self.scheme.inputs), clip_mode="none")
        return float(codec.encode(clipped).counts.float().abs().mean()) / codec.virtual_steps


def quantile_of(u: Tensor, q: float, mode: str) -> Tensor:
    """The smallest entry of u (of |u|, if two-sided) that a share q of all are not above; 0-d, NaN if one is."""
    values = (u.abs() if mode == "two-sided" else u).flatten()
    return values.kthvalue(max(math.ceil(q * values.numel()), 1)).values  # a sort would take most of a training step
