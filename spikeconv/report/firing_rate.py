"""Firing rates of a converted model on real text, layer by layer, with what they cost in operations."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch

from spikeconv.data.tokens import text_ids
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, family_of
from spikeconv.nn import SpikeLinear, attention_codes, spike_linears
from spikeconv.progress import Track, silent
from spikeconv.record import Recorder, SpikeStatistics
from spikeconv.report.operations import dense_flops, linear_macs, spiking_flops

__all__ = ["CacheFiring", "FiringReport", "LayerFiring", "TotalFiring", "firing_report"]

WINDOW = 1024


@dataclass(frozen=True)
class LayerFiring:
    """One converted linear over all tokens.

    Attributes:
        name: module name.
        role: `q`, `down`, …
        in_features: inputs of the linear.
        virtual_steps: T'.
        mean_count: mean |count| over tokens and inputs, all planes of an input together: its unary spikes.
        events: mean number of non-zero counts of an input: its graded spikes.
        ones: mean number of ones in the binary digits of an input's counts; None where nobody sends those.
        firing_rate: mean_count / T'; events / (T · l) with codec=multihead; None for counts that are sent whole.
        zero_share: share of counts that are zero.
        spikes_per_token: spikes that the linear receives for one token.
        macs: multiply-accumulates of the dense product.
        accumulations: signed column elements added instead.
        flops: the paper's weighting of them.
        dense_flops: the same weighting of a dense integer product of equal bit widths.
        weight_bytes: packed weight bytes read once.
        rotation_additions: additions of the online Hadamard transform; 0 in members that share another's encode.
    """

    name: str
    role: str
    in_features: int
    virtual_steps: int
    mean_count: float
    events: float
    ones: float | None
    firing_rate: float | None
    zero_share: float
    spikes_per_token: float
    macs: int
    accumulations: float
    flops: float
    dense_flops: float
    weight_bytes: int
    rotation_additions: int


@dataclass(frozen=True)
class TotalFiring:
    """All converted linears together; means are weighted by multiply-accumulates, so q, k, v each count.

    `float_macs` are the multiply-accumulates that stay in floating point, by what they are for; `linears` are those of
    linears without spikes.
    """

    tokens: int
    linears: int
    mean_count: float
    firing_rate: float | None
    zero_share: float
    macs: int
    accumulations: float
    flops: float
    dense_flops: float
    float_macs: dict[str, int]
    weight_bytes: int
    rotation_additions: int


@dataclass(frozen=True)
class CacheFiring:
    """Keys (or values) of all layers, where they are counts.

    Attributes:
        virtual_steps: T'.
        mean_count: mean |count|.
        firing_rate: mean_count / T'.
        zero_share: share of counts that are zero.
        bytes_per_token: of all heads and layers, scales included.
        bfloat16_bytes_per_token: what a bfloat16 cache takes.
        macs: multiply-accumulates of their product with q (or p) in float, over the full N² of each window.
        accumulations: signed additions of q (or p) instead.
        scalings: multiplications by a scale, one for every sum.
    """

    virtual_steps: int
    mean_count: float
    firing_rate: float
    zero_share: float
    bytes_per_token: int
    bfloat16_bytes_per_token: int
    macs: int
    accumulations: float
    scalings: int


@dataclass(frozen=True)
class FiringReport:
    """Per layer, in total, and of the key-value cache by `k` and `v` (empty where it is float)."""

    layers: tuple[LayerFiring, ...]
    total: TotalFiring
    cache: dict[str, CacheFiring]

    def by_role(self) -> dict[str, dict[str, float | None]]:
        """MAC-weighted means of each role."""
        roles = dict.fromkeys(layer.role for layer in self.layers)
        return {role: _means([layer for layer in self.layers if layer.role == role]) for role in roles}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "roles": self.by_role(),
            "total": asdict(self.total),
            "cache": {kind: asdict(firing) for kind, firing in self.cache.items()},
        }


def firing_report(
    model: Any,
    tokenizer: Any,
    text: str,
    roles: dict[str, str],
    *,
    tokens: int = WINDOW,
    track: Track = silent,
) -> FiringReport:
    """Run text through a model and count its spikes.

    Args:
        model: a converted model.
        tokenizer: its tokenizer.
        text: what to read; windows of 1,024 tokens are independent sequences.
        roles: role of each converted linear by name.
        tokens: how many tokens to read at most.
        track: progress display.

    Raises:
        SpikeconvError: the text is empty, or neither activations nor keys and values are spikes.
    """
    ids = text_ids(model, tokenizer, text)[:tokens]
    if not len(ids):
        raise SpikeconvError("The text is empty; give one with at least one token.")
    windows = ids.split(WINDOW)
    with Recorder(model) as recorder, torch.inference_mode():
        for window in track(windows, "counting spikes", len(windows)):
            model(window[None].to(model.device), use_cache=False, logits_to_keep=1)
    layers, seen = [], set()
    for name, linear in spike_linears(model).items():
        counted = recorder.statistics[name]
        if not counted.inputs:
            continue
        first = id(linear.encoder) not in seen
        seen.add(id(linear.encoder))
        rotation = linear.encoder.rotation
        layers.append(
            _layer(
                name,
                roles[name],
                counted,
                linear,
                rotation_additions=rotation.additions() * counted.tokens if rotation and first else 0,
            )
        )
    if not layers and not recorder.cache:
        raise SpikeconvError("This checkpoint has float activations: it emits no spikes to count.")
    config = model.config.get_text_config()
    family = family_of(model)
    stays_float: Counter[str] = Counter()
    for window in windows:
        stays_float.update(family.float_macs(config, len(window)))
    if linears := _float_linears(model, family, {layer.name for layer in layers}):
        stays_float["linears"] = sum(linear_macs(len(ids), each.in_features, each.out_features) for each in linears)
    spiking_attention = stays_float.pop("attention", 0) if recorder.cache else 0
    cache = {kind: _cache(counted, model, len(ids), spiking_attention // 2) for kind, counted in recorder.cache.items()}
    return FiringReport(tuple(layers), _total(layers, len(ids), dict(stays_float)), cache)


def _float_linears(model: Any, family: Family, spiking: set[str]) -> list[Any]:
    layout = family.layout(model.config.get_text_config())
    return [model.get_submodule(linear.name) for linear in layout if linear.name not in spiking]


def _cache(counted: SpikeStatistics, model: Any, tokens: int, macs: int) -> CacheFiring:
    code = next(iter(attention_codes(model).values()))
    steps = code.scheme.virtual_steps
    states = counted.inputs // code.head_dim // tokens  # heads of all layers
    mean_count = counted.spikes / counted.inputs
    return CacheFiring(
        virtual_steps=steps,
        mean_count=mean_count,
        firing_rate=mean_count / steps,
        zero_share=counted.zeros / counted.inputs,
        bytes_per_token=states * code.row_bytes,
        bfloat16_bytes_per_token=states * code.head_dim * 2,
        macs=macs,
        accumulations=macs * mean_count,
        scalings=macs // code.group,
    )


def _layer(
    name: str,
    role: str,
    counted: SpikeStatistics,
    linear: SpikeLinear,
    rotation_additions: int,
) -> LayerFiring:
    scheme, inputs = linear.scheme, counted.inputs
    spikes, zeros = counted.spikes, counted.zeros
    macs = linear_macs(counted.tokens, linear.in_features, linear.out_features)
    mean_count, events = spikes / inputs, counted.planes - zeros / inputs
    rate = (events if scheme.inputs.codec == "multihead" else mean_count) / scheme.inputs.virtual_steps
    return LayerFiring(
        name=name,
        role=role,
        in_features=linear.in_features,
        virtual_steps=scheme.inputs.virtual_steps,
        mean_count=mean_count,
        events=events,
        ones=counted.ones / inputs if scheme.inputs.codec == "multihead" else None,
        firing_rate=None if scheme.inputs.spikes == "integer" else rate,
        zero_share=zeros / (inputs * counted.planes),
        spikes_per_token=spikes / counted.tokens,
        macs=macs,
        accumulations=float(spikes * linear.out_features),
        flops=spiking_flops(macs, scheme, mean_count),
        dense_flops=dense_flops(macs, scheme.weights.bits, scheme.inputs.bits),
        weight_bytes=linear.weight.nbytes,
        rotation_additions=rotation_additions,
    )


def _means(layers: list[LayerFiring]) -> dict[str, float | None]:
    macs = sum(layer.macs for layer in layers) or 1

    def mean(values: list[float]) -> float:
        return sum(value * layer.macs for value, layer in zip(values, layers, strict=True)) / macs

    rates = [layer.firing_rate for layer in layers if layer.firing_rate is not None]
    return {
        "virtual_steps": mean([layer.virtual_steps for layer in layers]),
        "mean_count": mean([layer.mean_count for layer in layers]),
        "firing_rate": mean(rates) if rates and len(rates) == len(layers) else None,
        "events": mean([layer.events for layer in layers]),
        "zero_share": mean([layer.zero_share for layer in layers]),
        "spikes_per_token": mean([layer.spikes_per_token for layer in layers]),
    }


def _total(layers: list[LayerFiring], tokens: int, float_macs: dict[str, int]) -> TotalFiring:
    means = _means(layers)
    return TotalFiring(
        tokens=tokens,
        linears=len(layers),
        mean_count=means["mean_count"] or 0.0,
        firing_rate=means["firing_rate"],
        zero_share=means["zero_share"] or 0.0,
        macs=sum(layer.macs for layer in layers),
        accumulations=sum(layer.accumulations for layer in layers),
        flops=sum(layer.flops for layer in layers),
        dense_flops=sum(layer.dense_flops for layer in layers),
        float_macs=float_macs,
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        rotation_additions=sum(layer.rotation_additions for layer in layers),
    )
