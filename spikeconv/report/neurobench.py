"""The keys of NeuroBench 2.3 (Yik et al. 2025, neurobench/metrics), of a recording: without its package, by its rules.

A spiking layer is measured on its unfolded steps, where its inputs are -1, 0 and 1; a sample is one token.

    Footprint           bytes of all parameters and buffers of the model
    ConnectionSparsity  weights that are zero / weights, of the converted linears, rounded to four digits
    ActivationSparsity  1 - spikes / (inputs · steps), each encoder once; ActivationSparsityByLayer by its first linear
    SynapticOperations  Effective_ACs: spikes that meet a weight that is not zero; Effective_MACs: the same of counts
                        that go whole, and all products of linears that stay float; Dense: all of both, on all steps
    MembraneUpdates     potentials that a step may change: an upper bound, for NeuroBench leaves out steps that
                        happen to add up to nothing

As in NeuroBench, what is no linear layer (attention, recurrences) is in none of them.
"""

from collections.abc import Iterable
from typing import Any

from spikeconv.config import NeuronInputs
from spikeconv.record.record import LayerRecord, SpikeRecord

__all__ = ["neurobench_keys"]

LINEAR = ("head", "low rank")
"""What stays float and is a linear layer, as `float_macs` calls it."""

NOTES = {
    "version": "2.3",
    "sample": "one token",
    "layers": "converted linears; SynapticOperations of all linears, where float inputs are taken as not zero",
    "MembraneUpdates": "an upper bound: every step is taken to change every potential",
}


def neurobench_keys(record: SpikeRecord) -> dict[str, Any]:
    """NeuroBench's metrics of a recording by their names there, with `notes`; None where nobody looked at weights."""
    layers, tokens = record.layers, record.tokens
    spiking = [layer for layer in layers if not _is_whole(layer)]
    whole = [layer for layer in layers if _is_whole(layer)]
    floats = sum(width * height for width, height in record.float_linears) * tokens
    floats += sum(record.float_macs.get(name, 0) for name in LINEAR)
    additions = _sum(layer.effective for layer in spiking)
    products = _sum(layer.effective for layer in whole)
    dense = floats + sum(layer.tokens * _steps(layer) * layer.in_features * layer.out_features for layer in layers)
    zeros, weights = _sum(layer.zero_weights for layer in layers), sum(_weights(layer) for layer in layers)
    encoders = [layer for layer in layers if layer.encodes]
    sent = {layer.name: (_sent(layer), layer.inputs * _steps(layer)) for layer in encoders}
    return {
        "Footprint": record.footprint,
        "ConnectionSparsity": None if zeros is None or not weights else round(zeros / weights, 4),
        "ActivationSparsity": _sparsity(sent.values()),
        "ActivationSparsityByLayer": {name: _sparsity([counted]) for name, counted in sent.items()},
        "SynapticOperations": {
            "Effective_MACs": None if products is None else (products + floats) / tokens,
            "Effective_ACs": None if additions is None else additions / tokens,
            "Dense": dense / tokens,
        },
        "MembraneUpdates": (sum(map(_updates, layers)) + sum(n.channels * n.tokens for n in record.neurons)) / tokens,
        "notes": NOTES,
    }


def _is_whole(layer: LayerRecord) -> bool:
    """Whether counts go whole, which are products and not additions."""
    return layer.scheme.inputs.spikes == "integer"


def _steps(layer: LayerRecord) -> int:
    """Time steps of an input: of its code, for each of its planes."""
    inputs = layer.scheme.inputs
    if isinstance(inputs, NeuronInputs) or _is_whole(layer):
        return layer.planes
    return layer.planes * layer.cost.slots


def _sent(layer: LayerRecord) -> int:
    """Inputs that are not zero, of all steps."""
    return layer.inputs * layer.planes - layer.histogram.get(0, 0) if _is_whole(layer) else layer.spikes


def _updates(layer: LayerRecord) -> int:
    """Steps times potentials: those of its outputs, or of the neurons in front of it; none where counts go whole."""
    if _is_whole(layer):
        return 0
    if isinstance(layer.scheme.inputs, NeuronInputs):
        return layer.inputs * layer.planes if layer.encodes else 0
    return layer.tokens * _steps(layer) * layer.out_features


def _weights(layer: LayerRecord) -> int:
    return layer.in_features * layer.out_features


def _sum(values: Iterable[int | None]) -> int | None:
    """Their sum; None where one is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _sparsity(counted: Iterable[tuple[int, int]]) -> float:
    """The share of zeros, of pairs of what is not zero and all; 0 of nothing, as there."""
    pairs = list(counted)
    total = sum(pair[1] for pair in pairs)
    return (total - sum(pair[0] for pair in pairs)) / total if total else 0.0
