"""Firing rates of a recording, layer by layer, with what they cost in operations: pure functions of the record."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from spikeconv.record.record import CacheRecord, LayerRecord, SpikeRecord, magnitude_of
from spikeconv.report.operations import dense_flops, linear_macs, spiking_flops

__all__ = ["CacheFiring", "FiringReport", "LayerFiring", "TotalFiring", "firing_report"]


@dataclass(frozen=True)
class LayerFiring:
    """One converted linear over all tokens.

    Attributes:
        name: module name.
        role: `q`, `down`, …
        in_features: inputs of the linear.
        code: how a count is sent.
        virtual_steps: T', the slots of the code.
        mean_count: mean |count| over tokens and inputs, all planes of an input together: its unary spikes.
        spikes_per_input: mean number of spikes of an input, as its code sends them.
        events: mean number of non-zero counts of an input: its graded spikes.
        ones: mean number of ones in the binary digits of an input's counts; None where nobody sends those.
        firing_rate: spikes_per_input / T'; events / (T · l) with codec=multihead; None for counts that are sent whole.
        zero_share: share of counts that are zero.
        spikes_per_token: spikes that the linear receives for one token.
        macs: multiply-accumulates of the dense product.
        accumulations: signed column elements added instead.
        membrane_additions: additions of a neuron's current to its membrane, slot by slot (`ramp`).
        membrane_shifts: shifts of a membrane by one bit (`binary`, `signed-digit`).
        flops: the paper's weighting of them.
        dense_flops: the same weighting of a dense integer product of equal bit widths.
        weight_bytes: packed weight bytes read once.
        rotation_additions: additions of the online Hadamard transform; 0 in members that share another's encode.
    """

    name: str
    role: str
    in_features: int
    code: str
    virtual_steps: int
    mean_count: float
    spikes_per_input: float
    events: float
    ones: float | None
    firing_rate: float | None
    zero_share: float
    spikes_per_token: float
    macs: int
    accumulations: float
    membrane_additions: int
    membrane_shifts: int
    flops: float
    dense_flops: float
    weight_bytes: int
    rotation_additions: int


@dataclass(frozen=True)
class TotalFiring:
    """All converted linears together; means are weighted by multiply-accumulates, so q, k, v each count.

    `slots` are those of the slowest linear, its latency; `float_macs` are the multiply-accumulates that stay in float,
    by what they are for, `linears` those of linears without spikes. What begins with `cache_` is of keys and values,
    and of nothing else here: spikes of a count (None where they are float), slots, work of the sums over them.
    """

    tokens: int
    linears: int
    mean_count: float
    spikes_per_input: float
    slots: int
    firing_rate: float | None
    zero_share: float
    macs: int
    accumulations: float
    membrane_additions: int
    membrane_shifts: int
    flops: float
    dense_flops: float
    float_macs: dict[str, int]
    weight_bytes: int
    rotation_additions: int
    cache_spikes_per_input: float | None
    cache_slots: int
    cache_membrane_additions: int
    cache_membrane_shifts: int


@dataclass(frozen=True)
class CacheFiring:
    """Keys (or values) of all layers, where they are counts.

    Attributes:
        code: how a count is sent.
        virtual_steps: T', the slots of the code.
        mean_count: mean |count|: its unary spikes.
        spikes_per_input: mean number of spikes of a count, as its code sends them.
        firing_rate: spikes_per_input / T'.
        zero_share: share of counts that are zero.
        bytes_per_token: of all heads and layers, scales included.
        bfloat16_bytes_per_token: what a bfloat16 cache takes.
        macs: multiply-accumulates of their product with q (or p) in float, over the full N² of each window.
        accumulations: signed additions of q (or p) instead.
        scalings: multiplications by a scale, one for every query, key and group.
        membrane_additions: additions of a sum's current to the sum, slot by slot (`ramp`).
        membrane_shifts: doublings of a sum (`binary`, `signed-digit`). Scores are one sum for every query, key and
            group; the spikes of all values go to one for every query and output.
    """

    code: str
    virtual_steps: int
    mean_count: float
    spikes_per_input: float
    firing_rate: float
    zero_share: float
    bytes_per_token: int
    bfloat16_bytes_per_token: int
    macs: int
    accumulations: float
    scalings: int
    membrane_additions: int
    membrane_shifts: int


@dataclass(frozen=True)
class FiringReport:
    """Per layer, in total, of the key-value cache by `k` and `v` (empty where it is float), and of neurons by name.

    `streams` of the network ran, one for each time step.
    """

    layers: tuple[LayerFiring, ...]
    total: TotalFiring
    cache: dict[str, CacheFiring]
    neurons: dict[str, float]
    streams: int = 1

    @property
    def neuron_rate(self) -> float | None:
        """Mean firing rate of a model's own neurons, each place weighing the same; None without."""
        return sum(self.neurons.values()) / len(self.neurons) if self.neurons else None

    def by_role(self) -> dict[str, dict[str, float | None]]:
        """MAC-weighted means of each role."""
        roles = dict.fromkeys(layer.role for layer in self.layers)
        return {role: _means([layer for layer in self.layers if layer.role == role]) for role in roles}

    def means(self, names: Iterable[str]) -> dict[str, float | None]:
        """MAC-weighted means of some linears."""
        wanted = set(names)
        return _means([layer for layer in self.layers if layer.name in wanted])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "roles": self.by_role(),
            "total": asdict(self.total),
            "cache": {kind: asdict(firing) for kind, firing in self.cache.items()},
            "neurons": self.neurons,
            "streams": self.streams,
        }


def firing_report(record: SpikeRecord) -> FiringReport:
    """What a recording says: rates, and the operations that they cost."""
    layers = [_layer(layer) for layer in record.layers]
    stays_float = dict(record.float_macs)
    if record.float_linears:
        stays_float["linears"] = sum(linear_macs(record.tokens, *shape) for shape in record.float_linears)
    spiking_attention = stays_float.pop("attention", 0) if record.cache else 0
    macs = spiking_attention // 2
    pairs = sum(tokens**2 for tokens in record.sequences)  # of a query with a key
    cache = {}
    for kind, cached in record.cache.items():
        sums = macs // cached.group if kind == "k" else macs // pairs * record.tokens
        cache[kind] = _cache(cached, record.tokens, macs, sums)
    neurons = {each.name: each.firing_rate for each in record.neurons}
    total = _total(layers, record.tokens, stays_float, cache)
    return FiringReport(tuple(layers), total, cache, neurons, record.streams)


def _cache(record: CacheRecord, tokens: int, macs: int, sums: int) -> CacheFiring:
    states, counts = record.states // tokens, record.states * record.head_dim  # of one token, heads of all layers
    spikes_per_input, cost = record.spikes / counts, record.cost
    return CacheFiring(
        code=record.code.name,
        virtual_steps=cost.slots,
        mean_count=magnitude_of(record.histogram) / counts,
        spikes_per_input=spikes_per_input,
        firing_rate=spikes_per_input / cost.slots,
        zero_share=record.histogram.get(0, 0) / counts,
        bytes_per_token=states * record.row_bytes,
        bfloat16_bytes_per_token=states * record.head_dim * 2,
        macs=macs,
        accumulations=macs * spikes_per_input,
        scalings=macs // record.group,
        membrane_additions=cost.additions * sums,
        membrane_shifts=cost.doublings * sums,
    )


def _layer(record: LayerRecord) -> LayerFiring:
    scheme = record.scheme
    macs = linear_macs(record.tokens, record.in_features, record.out_features)
    cost, membranes = record.cost, record.planes * record.tokens * record.out_features
    return LayerFiring(
        name=record.name,
        role=record.role,
        in_features=record.in_features,
        code=record.code.name,
        virtual_steps=record.virtual_steps,
        mean_count=record.mean_count,
        spikes_per_input=record.spikes_per_input,
        events=record.events,
        ones=record.ones if scheme.inputs.codec == "multihead" else None,
        firing_rate=record.firing_rate,
        zero_share=record.zero_share,
        spikes_per_token=record.spikes / record.tokens,
        macs=macs,
        accumulations=float(record.spikes * record.out_features),
        membrane_additions=cost.additions * membranes,
        membrane_shifts=cost.doublings * membranes,
        flops=spiking_flops(macs, scheme, record.spikes_per_input),
        dense_flops=dense_flops(macs, scheme.weights.bits, scheme.inputs.bits),
        weight_bytes=record.weight_bytes,
        rotation_additions=record.rotation_additions * record.tokens,
    )


def _means(layers: list[LayerFiring]) -> dict[str, float | None]:
    macs = sum(layer.macs for layer in layers) or 1

    def mean(values: list[float]) -> float:
        return sum(value * layer.macs for value, layer in zip(values, layers, strict=True)) / macs

    rates = [layer.firing_rate for layer in layers if layer.firing_rate is not None]
    return {
        "virtual_steps": mean([layer.virtual_steps for layer in layers]),
        "mean_count": mean([layer.mean_count for layer in layers]),
        "spikes_per_input": mean([layer.spikes_per_input for layer in layers]),
        "firing_rate": mean(rates) if rates and len(rates) == len(layers) else None,
        "events": mean([layer.events for layer in layers]),
        "zero_share": mean([layer.zero_share for layer in layers]),
        "spikes_per_token": mean([layer.spikes_per_token for layer in layers]),
    }


def _total(
    layers: list[LayerFiring], tokens: int, float_macs: dict[str, int], cache: dict[str, CacheFiring]
) -> TotalFiring:
    means, cached = _means(layers), list(cache.values())
    return TotalFiring(
        tokens=tokens,
        linears=len(layers),
        mean_count=means["mean_count"] or 0.0,
        spikes_per_input=means["spikes_per_input"] or 0.0,
        slots=max((layer.virtual_steps for layer in layers), default=0),
        firing_rate=means["firing_rate"],
        zero_share=means["zero_share"] or 0.0,
        macs=sum(layer.macs for layer in layers),
        accumulations=sum(layer.accumulations for layer in layers),
        membrane_additions=sum(layer.membrane_additions for layer in layers),
        membrane_shifts=sum(layer.membrane_shifts for layer in layers),
        flops=sum(layer.flops for layer in layers),
        dense_flops=sum(layer.dense_flops for layer in layers),
        float_macs=float_macs,
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        rotation_additions=sum(layer.rotation_additions for layer in layers),
        cache_spikes_per_input=sum(each.spikes_per_input for each in cached) / len(cached) if cached else None,
        cache_slots=max((each.virtual_steps for each in cached), default=0),
        cache_membrane_additions=sum(each.membrane_additions for each in cached),
        cache_membrane_shifts=sum(each.membrane_shifts for each in cached),
    )
