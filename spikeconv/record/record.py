"""What a recording holds, as plain values: histograms of counts, tokens, shapes, settings. All else follows from them.

The firing rate of a layer is mean |k| / T' over tokens and inputs (SDLLM, eq. 15 and 22).
"""

from dataclasses import asdict, dataclass
from typing import Any

from spikeconv.codes import Code, Cost, code_for
from spikeconv.config import FloatInputs, KvSettings, LinearScheme, MultiheadInputs, NeuronInputs
from spikeconv.record.neurons import NeuronRecord

__all__ = ["CacheRecord", "LayerRecord", "SpikeRecord", "magnitude_of", "ones_of"]

Histogram = dict[int, int]
"""How often each count was seen."""


def magnitude_of(histogram: Histogram) -> int:
    """Σ|k|: spikes of the unary code."""
    return sum(abs(count) * times for count, times in histogram.items())


def spikes_of(histogram: Histogram, code: Code) -> int:
    """Spikes of all counts, as a code sends them."""
    spikes = code.spikes(max(map(abs, histogram), default=0)).tolist()
    return sum(spikes[abs(count)] * times for count, times in histogram.items())


def ones_of(histogram: Histogram) -> int:
    """Ones of all |k| written in binary: spikes of the binary code."""
    return sum(abs(count).bit_count() * times for count, times in histogram.items())


@dataclass(frozen=True)
class LayerRecord:
    """The input of one converted linear.

    Attributes:
        name: module name.
        role: `q`, `down`, …
        in_features, out_features: of the linear.
        scheme: its settings.
        tokens: seen.
        inputs: seen; each has `planes` counts.
        planes: counts of an input.
        histogram: how often each count was seen.
        weight_bytes: bytes of the packed weight.
        rotation_additions: additions of the online Hadamard transform for a token; 0 in members that share another's
            encode.
        encodes: whether it is no such member.
        zero_weights: weights that are zero; None where nobody looked.
        effective: additions for spikes (of whole counts, products) with a weight that is not zero; None as well.
    """

    name: str
    role: str
    in_features: int
    out_features: int
    scheme: LinearScheme
    tokens: int
    inputs: int
    planes: int
    histogram: Histogram
    weight_bytes: int
    rotation_additions: int
    encodes: bool = True
    zero_weights: int | None = None
    effective: int | None = None

    @property
    def code(self) -> Code:
        """How a count is sent."""
        return code_for(self.scheme.code)

    @property
    def virtual_steps(self) -> int:
        """T': slots of the code where counts are sent by one; T · l of the digits of `multihead`, 1 of whole counts.

        T of neurons.
        """
        inputs = self.scheme.inputs
        if isinstance(inputs, MultiheadInputs | FloatInputs | NeuronInputs) or inputs.spikes == "integer":
            return inputs.virtual_steps
        return self.code.slots(inputs.largest_count)

    @property
    def cost(self) -> Cost:
        """What an output does for one token beside the additions for spikes; nothing where counts go whole."""
        inputs = self.scheme.inputs
        if isinstance(inputs, FloatInputs | NeuronInputs) or inputs.spikes == "integer":
            return Cost(self.virtual_steps)
        return self.code.cost(inputs.largest_count)

    @property
    def spikes(self) -> int:
        """Spikes of all counts, as their code sends them."""
        return spikes_of(self.histogram, self.code)

    @property
    def mean_count(self) -> float:
        """Mean |count| over tokens and inputs, all planes of an input together: its unary spikes."""
        return magnitude_of(self.histogram) / self.inputs if self.inputs else 0.0

    @property
    def spikes_per_input(self) -> float:
        """Mean number of spikes of an input, as its code sends them."""
        return self.spikes / self.inputs if self.inputs else 0.0

    @property
    def events(self) -> float:
        """Mean number of non-zero counts of an input: its graded spikes."""
        return self.planes - self.histogram.get(0, 0) / self.inputs if self.inputs else 0.0

    @property
    def ones(self) -> float:
        """Mean number of ones in the binary digits of an input's counts."""
        return ones_of(self.histogram) / self.inputs if self.inputs else 0.0

    @property
    def zero_share(self) -> float:
        """Share of counts that are zero."""
        return self.histogram.get(0, 0) / (self.inputs * self.planes) if self.inputs else 0.0

    @property
    def firing_rate(self) -> float | None:
        """spikes_per_input / T'; events / (T · l) with codec=multihead; None for counts that are sent whole."""
        inputs = self.scheme.inputs
        if inputs.spikes == "integer":
            return None
        return (self.events if inputs.codec == "multihead" else self.spikes_per_input) / self.virtual_steps


@dataclass(frozen=True)
class CacheRecord:
    """Keys (or values) of all layers, where they are counts.

    Attributes:
        scheme: settings of keys and values.
        states: keys seen, one for each token, layer and head.
        histogram: how often each count was seen.
        head_dim: counts of a key.
        group: counts that share a scale.
        row_bytes: bytes of a key.
    """

    scheme: KvSettings
    states: int
    histogram: Histogram
    head_dim: int
    group: int
    row_bytes: int

    @property
    def code(self) -> Code:
        """How a count is sent."""
        return code_for(self.scheme.code)

    @property
    def cost(self) -> Cost:
        """What one sum does beside the additions for spikes."""
        return self.code.cost(self.scheme.largest_count)

    @property
    def spikes(self) -> int:
        """Spikes of all counts, as their code sends them."""
        return spikes_of(self.histogram, self.code)


@dataclass(frozen=True)
class SpikeRecord:
    """A model on a text.

    Attributes:
        family: the model's `model_type`.
        sequences: tokens of each sequence that was run.
        layers: converted linears that saw an input, in order.
        cache: by `k` and `v`; empty where those are float.
        float_linears: (in, out) of the family's linears that have no spikes.
        float_macs: multiply-accumulates outside the linears that a float model has, by what they are for.
        neurons: those that are part of the model.
        streams: of the network, one for each time step; what stays float is there for all of them.
        footprint: bytes of all parameters and buffers of the model; None where nobody looked.
    """

    family: str
    sequences: tuple[int, ...]
    layers: tuple[LayerRecord, ...]
    cache: dict[str, CacheRecord]
    float_linears: tuple[tuple[int, int], ...]
    float_macs: dict[str, int]
    neurons: tuple[NeuronRecord, ...] = ()
    streams: int = 1
    footprint: int | None = None

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(self.sequences)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        layers = [{**vars(layer), "scheme": layer.scheme.model_dump(mode="json")} for layer in self.layers]
        cache = {
            kind: {**vars(cached), "scheme": cached.scheme.model_dump(mode="json")}
            for kind, cached in self.cache.items()
        }
        return {**asdict(self), "layers": layers, "cache": cache}
