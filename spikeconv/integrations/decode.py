"""One token through a model with as little Python as possible.

At batch size one the products of a small model take less time than the modules around them. For a single new token a
whole decoder layer runs as one native call: the same operations in the same order as transformers', and so the same
bits. Anything else (a prompt, a padded batch, another kind of cache or attention, hooks on a module) takes the layer's
own forward.
"""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.cache_utils import DynamicLayer

from spikeconv.errors import SpikeconvError
from spikeconv.families import GatedDecoder, family_of, own_name
from spikeconv.integrations.memory import cache_among, memory_keyword
from spikeconv.nn import FoldedNorm, SpikeLinear, attention_codes
from spikeconv.nn.plan import GroupPlan
from spikeconv.ops.native import decode_layer, load

__all__ = ["Obstacle", "obstacle", "speed_up_decode"]

LARGEST_HEAD = 256
"""Up to this head_dim transformers leaves the grouping of heads to torch."""

ARGUMENTS = ("hidden_states", "attention_mask", "position_embeddings")
"""What a layer is given under these names, beside the cache."""


class Obstacle(NamedTuple):
    """Why a model does not go the short way, and whether that is a choice: of the user, or of the model's makers."""

    why: str
    is_choice: bool


def speed_up_decode(model: Any) -> None:
    """Give the layers of a converted model of a family with a native layer, and its output head, the short way.

    Modules whose forward somebody replaced before (accelerate, to load their weights) keep that.
    """
    for layer, native in _layers(model):
        if "forward" not in layer.__dict__ and _is_strange(layer, native) is None:
            # On the instance: its class, which transformers' hooks go by, stays what it is.
            layer.forward = ShortWay(layer, native)
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and "forward" not in head.__dict__ and torch.backends.mkldnn.is_available():
        head.forward = HeadForward(head)  # type: ignore[assignment, method-assign]


def obstacle(model: Any) -> Obstacle | None:
    """What keeps a model on a CPU from decoding the short way; None if nothing does, or if it has another one.

    Native kernels that are missing are no obstacle of this kind, nor is a cache of rows: those have their own words.
    """
    layers = list(_layers(model))
    if not layers or model.device.type != "cpu" or attention_codes(model) or not load("cpu").is_native:
        return None
    if (why := _is_strange(*layers[0])) is not None:
        return Obstacle(why, is_choice=False)
    if not all(isinstance(layer.__dict__.get("forward"), ShortWay) for layer, _ in layers):
        return Obstacle("their forward was replaced by another one, as accelerate does to move weights", True)
    if model.dtype != torch.float32:
        return Obstacle(f"the model computes in {str(model.dtype).removeprefix('torch.')}, not in float32", True)
    if model.config._attn_implementation != "sdpa":
        return Obstacle(f"its attention is {model.config._attn_implementation!r}, not 'sdpa'", True)
    unlike = [why for layer, native in layers if (why := _is_unlike(layer, native)) is not None]
    return Obstacle(f"in {len(unlike)} of {len(layers)} layers {unlike[0]}", True) if unlike else None


class ShortWay:
    """The forward of a decoder layer, in the signature of transformers' layers."""

    def __init__(self, layer: Any, native: GatedDecoder) -> None:
        self.layer, self.native = layer, native
        self.parts: list[Any] = []
        self.fits = False

    def __call__(self, hidden_states: Tensor, *more: Any, **arguments: Any) -> Tensor:
        """The layer's output [batch, tokens, hidden]."""
        layer, attention = self.layer, self.layer._modules[self.native.attention]
        cache = None if more else self._cache(hidden_states, arguments)
        plans = None if cache is None else self._plans()
        if cache is None or plans is None or attention.config._attn_implementation != "sdpa":
            return type(layer).forward(layer, hidden_states, *more, **arguments)  # type: ignore[no-any-return]
        cos, sin = arguments["position_embeddings"]
        past = (cache.keys, cache.values)
        # `plans` stay until the call is over, and with them all that they point to.
        parts = [plan.arguments for plan in plans]
        y, cache.keys, cache.values = decode_layer(hidden_states, cos, sin, *past, parts, attention.scaling)
        return y

    def _cache(self, hidden_states: Tensor, arguments: dict[str, Any]) -> Any:
        """The layer's part of the cache, if this is a token that can go the short way."""
        if hidden_states.shape[1] != 1 or torch.compiler.is_compiling():
            return None
        caches = cache_among(arguments.values())
        if (
            caches is None
            or arguments.get("attention_mask") is not None
            or arguments.get("position_embeddings") is None
            or hidden_states.dtype != torch.float32
            or not hidden_states.is_cpu
            or torch.is_grad_enabled()
        ):
            return None
        index = self.layer._modules[self.native.attention].layer_idx
        cache = caches.layers[index] if index < len(caches.layers) else None
        # Exactly: what derives from it, a window or a quantized cache, keeps its states another way.
        if type(cache) is not DynamicLayer or not cache.is_initialized:
            return None
        keys = cache.keys
        fits = keys is not None and keys.dim() == 4 and keys.dtype == torch.float32 and keys.is_cpu
        return cache if fits else None

    def _plans(self) -> tuple[GroupPlan, GroupPlan, GroupPlan, GroupPlan] | None:
        modules, native = self.layer._modules, self.native
        attention, feed_forward = modules[native.attention]._modules, modules[native.feed_forward]._modules
        parts = [*modules.values(), *attention.values(), *feed_forward.values()]
        if parts != self.parts:  # the first token, or a module was replaced
            self.parts, self.fits = parts, _is_unlike(self.layer, native) is None
        if not self.fits or any(
            part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__ for part in parts
        ):
            return None
        firsts = attention[native.q], attention[native.o], feed_forward[native.gate], feed_forward[native.down]
        qkv, output, gate_up, down = (linear.group.plan() for linear in firsts)
        if qkv is None or output is None or gate_up is None or down is None:
            return None
        return qkv, output, gate_up, down


class HeadForward:
    """The forward of a float output head by oneDNN, which reads weights twice as fast as torch's own choice."""

    def __init__(self, head: nn.Linear) -> None:
        self.head = head

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [..., vocabulary] of x [..., hidden]."""
        weight, bias = self.head.weight, self.head.bias
        if not x.is_cpu or not x.dtype == weight.dtype == torch.float32 or torch.is_grad_enabled():
            return nn.functional.linear(x, weight, bias)
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return logits


def _layers(model: Any) -> Iterator[tuple[Any, GatedDecoder]]:
    for stack in family_of(model).stacks:
        if stack.native is not None:
            for layer in model.get_submodule(own_name(model, stack.layers)):
                yield layer, stack.native


def _is_strange(layer: Any, native: GatedDecoder) -> str | None:
    """What transformers does otherwise than the native layer expects; None if all is as it was known."""
    signature = inspect.signature(type(layer).forward).parameters
    if missing := [name for name in ARGUMENTS if name not in signature]:
        return f"this transformers' {type(layer).__name__} takes no {missing[0]}"
    try:
        memory_keyword(layer)
    except SpikeconvError as error:
        return str(error).removesuffix(".")
    if not all(hasattr(DynamicLayer(), name) for name in ("keys", "values", "is_initialized")):
        return "this transformers' cache keeps its keys and values under other names"
    halves = (layer._modules.get(name, layer) for name in (native.attention, native.feed_forward))
    if (set(layer._modules), *(set(half._modules) for half in halves)) != native.modules:
        return f"this transformers' {type(layer).__name__} is built of other modules"
    return None


def _is_unlike(layer: Any, native: GatedDecoder) -> str | None:
    """What a layer does that the native one does not; None if it is fully converted and nothing is."""
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
    if attention.head_dim > LARGEST_HEAD:
        return f"head_dim is {attention.head_dim}, above {LARGEST_HEAD}"
    if not isinstance(activation, (nn.SiLU, SiLUActivation)):
        return f"the activation is {type(activation).__name__}, not SiLU"
    return None
