"""Which modules of a loaded decoder the engine stands for, and what keeps it from that."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn
from transformers.activations import SiLUActivation

from spikeconv.engine.obstacles import Obstacle, obstacle_around
from spikeconv.families import GatedDecoder, family_of, own_name
from spikeconv.nn import COUNT_ATTENTION, FoldedNorm, KvCode, SpikeLinear, attention_codes

__all__ = ["Decoder", "Layer", "attention_of", "decoder_obstacle", "decoder_of", "is_decoder"]

ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone."""

BASE = {"embed_tokens", "layers", "norm", "rotary_emb"}
"""The modules of a decoder without its head."""

LARGEST_HEAD = 256


class Layer(NamedTuple):
    """The modules of one layer that the engine reads, and the code of its keys and values where they are counts."""

    attention: Any
    groups: tuple[Any, Any, Any, Any]
    norms: tuple[Any, ...]
    code: KvCode | None


class Decoder(NamedTuple):
    """A model without its head."""

    base: Any
    layers: tuple[Layer, ...]


def decoder_of(model: Any) -> Decoder:
    """The parts of a model without an obstacle."""
    base = model.base_model
    return Decoder(base, tuple(_parts(layer, native) for layer, native in _layers(model)))


def is_decoder(model: Any) -> bool:
    """Whether a model is of a family of such decoders."""
    return any(True for _ in _layers(model))


def attention_of(model: Any) -> str:
    """The attention that the engine stands for, by its name in `config._attn_implementation`."""
    return COUNT_ATTENTION if attention_codes(model) else "sdpa"


def decoder_obstacle(model: Any) -> Obstacle | None:
    """What keeps a decoder on a CPU from the engine; None if nothing does."""
    layers = list(_layers(model))
    if (why := _is_strange(model, *layers[0])) is not None:
        return Obstacle(why, is_choice=False)
    config = model.config.get_text_config()
    if (found := obstacle_around(model, len(layers))) is not None:
        return found
    if config._attn_implementation != (attention := attention_of(model)):
        return Obstacle(f"its attention is {config._attn_implementation!r}, not {attention!r}", True)
    if (rope := (config.rope_parameters or {}).get("rope_type", "default")) not in ROPES:
        return Obstacle(f"its rotary embedding is {rope!r}, which changes with the length of a text", True)
    if len({layer._modules[native.attention].scaling for layer, native in layers}) > 1:
        return Obstacle("the scaling of attention's scores is not the same in all layers", True)
    codes = [layer._modules[native.attention].__dict__.get("kv") for layer, native in layers]
    if (why := _is_unknown(codes)) is not None:
        return Obstacle(why, True)
    unlike = [why for layer, native in layers if (why := _is_unlike(layer, native)) is not None]
    return Obstacle(f"in {len(unlike)} of {len(layers)} layers {unlike[0]}", True) if unlike else None


def _layers(model: Any) -> Iterator[tuple[Any, GatedDecoder]]:
    for stack in family_of(model).stacks:
        if stack.native is not None:
            for layer in model.get_submodule(own_name(model, stack.layers)):
                yield layer, stack.native


def _parts(layer: Any, native: GatedDecoder) -> Layer:
    attention, feed_forward = layer._modules[native.attention], layer._modules[native.feed_forward]._modules
    firsts = (
        attention._modules[native.q],
        attention._modules[native.o],
        feed_forward[native.gate],
        feed_forward[native.down],
    )
    q, o, gate, down = (linear.group for linear in firsts)
    names = (name for name in (native.q_norm, native.k_norm) if name is not None)
    code = attention.__dict__.get("kv")
    return Layer(attention, (q, o, gate, down), tuple(attention._modules[name] for name in names), code)


def _is_unknown(codes: list[Any]) -> str | None:
    """What of the codes of all layers' keys and values the engine does not know; None: nothing, or they are floats."""
    first = codes[0]
    if first is None and not any(codes):
        return None
    if any(type(code) is not KvCode for code in codes):
        return "not all keys and values are counts of a code that is known"
    if len({code.geometry for code in codes}) > 1:
        return "the counts of keys and values are not the same in all layers"
    if first.scheme.selects:
        return "salient channels of its keys and values have a bit more (kv_low_share)"
    if any(code.execution == "unfold" for code in codes):
        return "attention over its counts was set to 'unfold', which adds spikes one by one"
    return None


def _is_strange(model: Any, layer: Any, native: GatedDecoder) -> str | None:
    """What transformers does otherwise than the engine expects; None if all is as it was known."""
    base = model.base_model
    if set(base._modules) != BASE:
        return f"this transformers' {type(base).__name__} is built of other modules"
    if not hasattr(base.norm, "variance_epsilon"):
        return f"this transformers' {type(base.norm).__name__} keeps its ε under another name"
    halves = [layer._modules.get(name, layer) for name in (native.attention, native.feed_forward)]
    for module in (base, layer, *halves):
        if not type(module).__module__.startswith("transformers.models."):
            return f"{type(module).__name__} is not transformers' own"
    if (set(layer._modules), *(set(half._modules) for half in halves)) != native.modules:
        return f"this transformers' {type(layer).__name__} is built of other modules"
    return None


def _is_unlike(layer: Any, native: GatedDecoder) -> str | None:
    """What a layer does that the engine does not; None if it is fully converted and nothing is."""
    modules: dict[str, Any] = layer._modules
    attention, feed_forward = modules[native.attention], modules[native.feed_forward]
    q, k, v, o = (attention._modules[name] for name in (native.q, native.k, native.v, native.o))
    gate, up, down = (feed_forward._modules[name] for name in (native.gate, native.up, native.down))
    activation = feed_forward._modules[native.activation]
    if not all(isinstance(linear, SpikeLinear) for linear in (q, k, v, o, gate, up, down)):
        return "not every linear is converted"
    if not all(
        isinstance(norm, FoldedNorm) for norm in (modules[native.attention_norm], modules[native.feed_forward_norm])
    ):
        return "a norm is not computed by the encoder"
    if [linear.group.members for linear in (q, o, gate, down)] != [[q, k, v], [o], [gate, up], [down]]:
        return "linears of one input differ in their settings"
    if any(linear.execution != "auto" for linear in (q, k, v, o, gate, up, down)):
        return f"the execution was set to {q.execution!r}, whose bits are those of the modules"
    if any(linear.group.encoder.prepares or linear.group.plan() is None for linear in (q, o, gate, down)):
        return "its encoders or executions run step by step"
    if attention.head_dim > LARGEST_HEAD or attention.head_dim % 2:
        return f"head_dim is {attention.head_dim}, not an even number up to {LARGEST_HEAD}"
    if not isinstance(activation, (nn.SiLU, SiLUActivation)):
        return f"the activation is {type(activation).__name__}, not SiLU"
    return None
