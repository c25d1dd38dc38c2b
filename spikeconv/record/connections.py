"""What each input of a linear was sent while a model runs, and how many weights that met: none that is zero.

    effective = Σ_i spikes_i · |{o: W[o, i] ≠ 0}|          NeuroBench's effective operations

Counts that go whole count once where they are not zero.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from spikeconv.codecs import SpikeCounts
from spikeconv.config import FloatInputs
from spikeconv.nn import Encoder, SpikeLinear, spike_linears
from spikeconv.record.record import LayerRecord
from spikeconv.record.watching import Undo, Watching, first_linears, observe

__all__ = ["ConnectionRecorder", "footprint_of"]


class ConnectionRecorder(Watching):
    """Counts what every encoder sends, input by input, while the context is open."""

    def __init__(self, model: nn.Module) -> None:
        self._linears = spike_linears(model)
        self._encoders = [linear.encoder for linear in first_linears(model).values()]
        self._sent: dict[int, Tensor] = {}

    def watch(self) -> Iterable[Undo]:
        """See every encoding."""
        for encoder in self._encoders:
            if encoder.codec is not None:
                yield observe(encoder, partial(self._see, encoder))

    def told(self, layer: LayerRecord) -> LayerRecord:
        """A record of a linear that says what its weights met, if they are in memory."""
        linear = self._linears[layer.name]
        if linear.weight.is_meta:  # not in memory
            return layer
        met = _nonzero(linear)
        sent = self._sent[id(linear.encoder)].to(met.device)
        zeros = layer.in_features * layer.out_features - int(met.sum())
        return replace(layer, zero_weights=zeros, effective=int((sent * met).sum()))

    def _see(self, encoder: Encoder, encoded: SpikeCounts) -> None:
        inputs, codec = encoder.scheme.inputs, encoder.codec
        assert codec is not None and not isinstance(inputs, FloatInputs)
        rows = encoded.counts.reshape(-1, encoder.in_features)
        if inputs.spikes == "integer":
            sent = rows.count_nonzero(0)
        else:
            spikes = encoder.code.spikes(codec.largest_count).to(rows.device, torch.float64)
            picked = spikes.index_select(0, rows.short().abs().int().flatten()).view(rows.shape)
            sent = picked.sum(0).long()  # exact, and several times as fast as to index and add up integers
        self._sent[id(encoder)] = self._sent.get(id(encoder), 0) + sent


def _nonzero(linear: SpikeLinear) -> Tensor:
    """Weights of each input that are not zero, int64 [in]."""
    weight = linear.float_weight() if linear.weight_scale is None else linear.integers()
    return (weight != 0).sum(0, dtype=torch.int32).long()


def footprint_of(model: nn.Module) -> int:
    """Bytes of all parameters and buffers of a model, as they lie in memory."""
    return sum(tensor.nbytes for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
