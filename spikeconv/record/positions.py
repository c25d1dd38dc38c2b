"""Spikes of every encoder by the token's position in its sequence, while a model runs."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from spikeconv.codecs import SpikeCounts
from spikeconv.nn import Encoder
from spikeconv.record.watching import Undo, Watching, first_linears, observe

__all__ = ["PositionRecorder"]


class PositionRecorder(Watching):
    """Records them while the context is open, for positions up to `longest`.

    Attributes:
        names: the first linear of each encoder, in order.
        spikes, inputs: sums by position, float64 and int64 [encoders, positions].
    """

    def __init__(self, model: nn.Module, longest: int) -> None:
        self._encoders = {name: linear.encoder for name, linear in first_linears(model).items()}
        self.names = list(self._encoders)
        self.spikes = torch.zeros(len(self.names), longest, dtype=torch.float64)
        self.inputs = torch.zeros(len(self.names), longest, dtype=torch.int64)

    def watch(self) -> Iterable[Undo]:
        """See every encoding."""
        for index, encoder in enumerate(self._encoders.values()):
            yield observe(encoder, partial(self._see, index, encoder))

    def _see(self, index: int, encoder: Encoder, encoded: SpikeCounts) -> None:
        counts, codec = encoded.counts, encoder.codec
        if counts.dim() < 3 or codec is None:  # a lone row has no position
            return
        sent = encoder.code.spikes(codec.largest_count).to(counts.device, torch.int16)
        spikes = sent[counts.short().abs().int()].sum(-1, dtype=torch.int64)  # [planes…, batch, tokens]
        tokens = min(spikes.shape[-1], self.spikes.shape[1])
        rows = spikes.reshape(-1, spikes.shape[-1])[:, :tokens]
        planes = len(counts) if encoded.stacked else encoded.steps
        self.spikes[index, :tokens] += rows.sum(0).double().cpu()
        self.inputs[index, :tokens] += len(rows) // planes * counts.shape[-1]
