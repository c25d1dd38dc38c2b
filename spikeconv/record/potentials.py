"""Histograms of membrane potentials before anything is cut off or rounded, in units of a token's RMS."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from spikeconv.nn import Encoder
from spikeconv.record.alternatives import alternative_counts
from spikeconv.record.watching import Undo, Watching, first_linears

__all__ = ["EDGES", "PotentialRecorder"]

BINS, REACH = 160, 8.0
EDGES = torch.linspace(-REACH, REACH, BINS + 1)
"""Of the bins [bins + 1]; what lies beyond the last is counted in it."""


class PotentialRecorder(Watching):
    """Records them while the context is open; each encoder computes its potential a second time for it.

    Args:
        model: a converted model.
        tokens: after so many nothing is looked at any more.

    Attributes:
        names: the first linear of each encoder, in order.
        histograms: int64 [encoders, bins].
        alternatives: int64 [encoders, 3, 16], counts that other encoders make of them.
    """

    def __init__(self, model: nn.Module, tokens: int) -> None:
        linears = first_linears(model)
        self.names, self._encoders = list(linears), [linear.encoder for linear in linears.values()]
        self.histograms = torch.zeros(len(self.names), BINS, dtype=torch.int64)
        self.alternatives = torch.zeros(len(self.names), 3, 16, dtype=torch.int64)
        self._left = [tokens] * len(self.names)

    def watch(self) -> Iterable[Undo]:
        """See every input."""
        for index, encoder in enumerate(self._encoders):
            reader = partial(self._see, index, encoder)
            encoder.readers.append(reader)
            yield partial(encoder.readers.remove, reader)

    @torch.no_grad()
    def _see(self, index: int, encoder: Encoder, x: Tensor) -> None:
        if self._left[index] <= 0:
            return
        self._left[index] -= x.shape[:-1].numel() // encoder.streams
        u = encoder.unclipped(x)
        scaled = u / u.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        inside = scaled.clamp(-REACH, REACH - 1e-4).flatten().cpu()
        self.histograms[index] += torch.histc(inside, BINS, -REACH, REACH).long()
        self.alternatives[index] += alternative_counts(u)
