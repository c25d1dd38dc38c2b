"""Histograms of membrane potentials before anything is cut off or rounded, in units of a token's RMS."""

from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.nn import SpikeLinear, spike_linears

__all__ = ["EDGES", "PotentialRecorder"]

BINS, REACH = 160, 8.0
EDGES = torch.linspace(-REACH, REACH, BINS + 1)
"""Of the bins [bins + 1]; what lies beyond the last is counted in it."""


class PotentialRecorder:
    """Records them while the context is open; each encoder computes its potential a second time for it.

    Attributes:
        names: the first linear of each encoder, in order.
    """

    def __init__(self, model: nn.Module) -> None:
        seen: set[int] = set()
        self._linears: list[SpikeLinear] = []
        self.names: list[str] = []
        for name, linear in spike_linears(model).items():
            if id(linear.encoder) not in seen:
                seen.add(id(linear.encoder))
                self._linears.append(linear)
                self.names.append(name)
        self.histograms = torch.zeros(len(self.names), BINS, dtype=torch.int64)
        """int64 [encoders, bins]."""
        self._hooks: list[Any] = []

    def __enter__(self) -> "PotentialRecorder":
        for index, linear in enumerate(self._linears):
            self._hooks.append(linear.register_forward_pre_hook(partial(self._see, index)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.no_grad()
    def _see(self, index: int, linear: SpikeLinear, arguments: tuple[Tensor, ...]) -> None:
        encoder = linear.encoder
        u = encoder.unclipped(encoder.centered(arguments[0]))
        scaled = u / u.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        inside = scaled.clamp(-REACH, REACH - 1e-4).flatten().cpu()
        self.histograms[index] += torch.histc(inside, BINS, -REACH, REACH).long()
