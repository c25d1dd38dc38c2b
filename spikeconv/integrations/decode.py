"""One token through a decoder layer with as little Python as possible.

At batch size one the products of a small model take less time than the modules around them. For a single new token this
forward does what the layer of transformers does, the same operations in the same order and so the same bits, without
walking through its modules. Anything else (a prompt, hooks on a module) takes the layer's own forward.
"""

from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.nn import FoldedNorm, SpikeLinear
from spikeconv.ops import encoding

__all__ = ["speed_up_decode"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


def speed_up_decode(model: nn.Module) -> int:
    """Give every fully converted gated decoder layer of a model the short way; returns how many there were."""
    layers = [layer for layer in model.modules() if _is_converted(layer)]
    for layer in layers:
        # On the instance: its class, which transformers' hooks go by, stays what it is.
        layer.forward = MethodType(forward, layer)
    return len(layers)


def _is_converted(layer: nn.Module) -> bool:
    attention, feed_forward = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    norms = (getattr(layer, "input_layernorm", None), getattr(layer, "post_attention_layernorm", None))
    linears = [getattr(attention, name, None) for name in ATTENTION]
    linears += [getattr(feed_forward, name, None) for name in FEED_FORWARD]
    return all(isinstance(linear, SpikeLinear) for linear in linears) and all(isinstance(n, FoldedNorm) for n in norms)


@cache
def _attention_functions() -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # which imports the quantizers, and so this room

    return ALL_ATTENTION_FUNCTIONS


def _is_watched(modules: Any) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def forward(layer: Any, hidden_states: Tensor, **arguments: Any) -> Tensor:
    """The layer's output [batch, tokens, hidden], in the signature of transformers' decoder layers."""
    attention, feed_forward = layer._modules["self_attn"], layer._modules["mlp"]
    parts = (*layer._modules.values(), *attention._modules.values(), *feed_forward._modules.values())
    short = (
        hidden_states.shape[1] == 1
        and arguments.get("past_key_values") is not None
        and not layer.training
        and not _is_watched(parts)
    )
    if not short or attention.config._attn_implementation not in _attention_functions():  # eager is the layer's own
        return type(layer).forward(layer, hidden_states, **arguments)  # type: ignore[no-any-return]
    hidden_states = hidden_states + _attend(attention, hidden_states, arguments)
    gate, up, down = (feed_forward._modules[name] for name in FEED_FORWARD)
    gated, linear = gate.group.products(hidden_states, [gate, up])
    result: Tensor = hidden_states + down.group.products(feed_forward.act_fn(gated) * linear, [down])[0]
    return result


def _attend(attention: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    q_proj, k_proj, v_proj, o_proj = (attention._modules[name] for name in ATTENTION)
    heads = (*x.shape[:-1], -1, attention.head_dim)
    q, k, v = (y.view(heads) for y in q_proj.group.products(x, [q_proj, k_proj, v_proj]))
    if "q_norm" in attention._modules:
        q, k = attention.q_norm(q), attention.k_norm(k)
    rotate = ops.rotary if x.dtype == torch.float32 else encoding.rotary  # the native one knows float32 only
    q, k = rotate(q.transpose(1, 2), k.transpose(1, 2), *arguments.pop("position_embeddings"))
    mask, past = arguments.pop("attention_mask", None), arguments.pop("past_key_values")
    for name in ("position_ids", "use_cache"):
        arguments.pop(name, None)
    k, v = past.update(k, v.transpose(1, 2), attention.layer_idx)
    run = _attention_functions()[attention.config._attn_implementation]
    window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    output, _ = run(
        attention, q, k, v, mask, dropout=0.0, scaling=attention.scaling, sliding_window=window, **arguments
    )
    result: Tensor = o_proj.group.products(output.reshape(*x.shape[:-1], -1), [o_proj])[0]
    return result
