"""One token through a model with as little Python as possible.

At batch size one the products of a small model take less time than the modules around them. For a single new token a
whole decoder layer runs as one native call: the same operations in the same order as transformers', and so the same
bits. Anything else (a prompt, a padded batch, another kind of cache or attention, hooks on a module) takes the layer's
own forward.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.integrations.memory import cache_among
from spikeconv.nn import FoldedNorm, SpikeLinear
from spikeconv.nn.plan import GroupPlan
from spikeconv.ops.native import decode_layer

__all__ = ["speed_up_decode"]

LAYER = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "act_fn")
LARGEST_HEAD = 256
"""Up to this head_dim transformers leaves the grouping of heads to torch."""


def speed_up_decode(model: Any) -> None:
    """Give the layers of a converted model that are built like LLaMA's, and its output head, the short way."""
    for layer in model.modules():
        if all(isinstance(getattr(layer, name, None), nn.Module) for name in LAYER):
            # On the instance: its class, which transformers' hooks go by, stays what it is.
            layer.forward = ShortWay(layer)
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and torch.backends.mkldnn.is_available():
        head.forward = HeadForward(head)  # type: ignore[assignment, method-assign]


class ShortWay:
    """The forward of a decoder layer, in the signature of transformers' layers."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.parts: list[Any] = []
        self.fits = False

    def __call__(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        """The layer's output [batch, tokens, hidden]."""
        layer, attention = self.layer, self.layer._modules["self_attn"]
        cache = self._cache(hidden_states, arguments)
        plans = None if cache is None else self._plans()
        if cache is None or plans is None or attention.config._attn_implementation != "sdpa":
            return type(layer).forward(layer, hidden_states, **arguments)  # type: ignore[no-any-return]
        cos, sin = arguments["position_embeddings"]
        past = (cache.keys, cache.values)
        # `plans` stay until the call is over, and with them all that they point to.
        qkv, output, gate_up, down = (plan.arguments for plan in plans)
        y, cache.keys, cache.values = decode_layer(
            hidden_states, cos, sin, *past, qkv, output, gate_up, down, attention.scaling
        )
        return y

    def _cache(self, hidden_states: Tensor, arguments: dict[str, Any]) -> Any:
        """The layer's part of the cache, if this is a token that can go the short way."""
        if hidden_states.shape[1] != 1 or torch.compiler.is_compiling():
            return None
        caches = cache_among(arguments.values())
        if (
            caches is None
            or arguments.get("attention_mask") is not None
            or hidden_states.dtype != torch.float32
            or not hidden_states.is_cpu
            or torch.is_grad_enabled()
            or getattr(caches, "offloading", True)
        ):
            return None
        index = self.layer._modules["self_attn"].layer_idx
        cache: Any = caches.layers[index] if index < len(caches.layers) else None
        if type(cache).__name__ != "DynamicLayer" or not cache.is_initialized or cache.keys.dim() != 4:
            return None
        return cache if cache.keys.dtype == torch.float32 else None

    def _plans(self) -> tuple[GroupPlan, GroupPlan, GroupPlan, GroupPlan] | None:
        modules = self.layer._modules
        parts = [*modules.values(), *modules["self_attn"]._modules.values(), *modules["mlp"]._modules.values()]
        if parts != self.parts:  # the first token, or a module was replaced
            self.parts, self.fits = parts, _is_like_llama(self.layer)
        if not self.fits or any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            return None
        attention, feed_forward = modules["self_attn"]._modules, modules["mlp"]._modules
        firsts = (attention["q_proj"], attention["o_proj"], feed_forward["gate_proj"], feed_forward["down_proj"])
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


def _is_like_llama(layer: Any) -> bool:
    """Whether a layer is fully converted and does nothing that the native one does not."""
    from transformers.activations import SiLUActivation  # which imports the quantizers, and so this room

    attention, feed_forward = layer.self_attn, layer.mlp
    built_alike = (set(layer._modules), set(attention._modules), set(feed_forward._modules)) == tuple(
        map(set, (LAYER, ATTENTION, FEED_FORWARD))
    )
    if not built_alike:
        return False
    q, k, v, o = (attention._modules[name] for name in ATTENTION)
    gate, up, down, activation = (feed_forward._modules[name] for name in FEED_FORWARD)
    if not all(isinstance(linear, SpikeLinear) for linear in (q, k, v, o, gate, up, down)):
        return False
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    folded = all(isinstance(norm, FoldedNorm) for norm in norms)
    grouped = [linear.group.members for linear in (q, o, gate, down)] == [[q, k, v], [o], [gate, up], [down]]
    small = attention.head_dim <= LARGEST_HEAD
    return folded and grouped and small and isinstance(activation, (nn.SiLU, SiLUActivation))
