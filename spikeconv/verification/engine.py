"""Whether the engine computes what a model's modules do: to the bit between sums of floats, and those to a bound."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from spikeconv.engine import READ, Engine, Sequence, decoder_of, runs_decoder, runs_recurrent, windows_of
from spikeconv.ops.encoding import rms_norm
from spikeconv.verification.recurrent import compare_recurrent
from spikeconv.verification.result import VerifyResult, relative_error

__all__ = ["attention_states", "compare_engine"]

LINEARS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Names of the outputs of each group of a layer."""


def compare_engine(model: Any, ids: Tensor, result: VerifyResult) -> None:
    """Run a text through the engine, and what it computed on the way through the modules, layer by layer.

    Given the same inputs, the outputs of linears must be the same bits, and so are counts and accumulators. Attention,
    SiLU and the logits are sums and functions of floats, compared relative to the largest number of each. Keys and
    values that are counts must be the same rows, and attention over them, by the same kernels, the same bits.

    Args:
        model: a converted model; one that the engine is not for is left alone.
        ids: token ids [1, tokens].
        result: where to note what is found.
    """
    if runs_recurrent(model):
        compare_recurrent(model, ids, result)
    if not runs_decoder(model):
        return
    tokens, decoder, base = ids[0], decoder_of(model), model.base_model
    with torch.inference_mode():
        engine = Engine(model, len(tokens))
        whole, cache = Sequence(len(tokens)), engine.cache(1, len(tokens))
        has_head = engine.tables[4] is not None
        logits = engine.forward(tokens, [whole], cache, torch.arange(len(tokens)), logits=has_head)
        x = base.embed_tokens(tokens)
        angles = base.rotary_emb(torch.empty(0), torch.arange(len(tokens))[None])
        windows = windows_of(model.config.get_text_config(), len(decoder.layers))
        errors: list[float] = []
        found = engine.layer_by_layer(tokens, [whole], cache)
        for index, (was, layer, window) in enumerate(zip(found, decoder.layers, windows, strict=True)):
            same = {"input": torch.equal(was["input"], x)}
            for group, names, read in zip(layer.groups, LINEARS, READ, strict=True):
                outputs = group.products(was[read].contiguous(), group.members)
                same |= {name: torch.equal(was[name], y) for name, y in zip(names, outputs, strict=True)}
            same["middle"] = torch.equal(x + was["o"], was["middle"])
            x = was["middle"] + was["down"]
            states = attention_states(layer, was, angles, engine.head_dim)
            attended, rows = _attended(layer, states, _mask(len(tokens), window))
            if rows is not None:
                held = cache.keys[index], cache.values[index]
                same |= {name: torch.equal(*both) for name, *both in zip(("keys", "values"), rows, held, strict=True)}
                same["attended"] = torch.equal(was["attended"], attended)
            result.engine_outputs += sum(values.numel() for values in was.values())
            result.different_in_engine += [f"layer {index} ({name})" for name, equal in same.items() if not equal]
            errors += [
                relative_error(was["attended"], attended),
                relative_error(was["product"], silu(was["gate"]) * was["up"]),
            ]
        last, head = base.norm(x), model.get_output_embeddings()
        errors.append(relative_error(logits, last if head is None else linear(last, head.weight, head.bias)))
        result.engine_error = max(errors)


def attention_states(layer: Any, was: dict[str, Tensor], angles: tuple[Tensor, Tensor], head_dim: int) -> list[Tensor]:
    """Queries, keys and values [1, heads, tokens, head_dim] of q, k and v as they come out of their linears."""
    q, k, v = (was[name].unflatten(-1, (-1, head_dim)).transpose(0, 1)[None] for name in ("q", "k", "v"))
    if layer.norms:
        q, k = (rms_norm(x, norm.weight, norm.variance_epsilon) for norm, x in zip(layer.norms, (q, k), strict=True))
    return [_rotated(q, *angles), _rotated(k, *angles), v]


def _mask(tokens: int, window: int) -> Tensor:
    """Which keys a token sees, bool [tokens, tokens]."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    return (distance >= 0) & (distance < (window or tokens))


def _attended(layer: Any, states: list[Tensor], mask: Tensor) -> tuple[Tensor, list[Tensor] | None]:
    """Attention's output [tokens, heads · head_dim] by torch, or over counts by the layer's code; and then their rows,
    uint8 [1, key heads, tokens, row_bytes] of keys and values."""
    q, k, v = states
    scaling, code = layer.attention.scaling, layer.code
    if code is None:
        y = scaled_dot_product_attention(q, k, v, mask, scale=scaling, enable_gqa=True)
        return y[0].transpose(0, 1).flatten(1), None
    rows = [code.rows(k, "k"), code.rows(v, "v")]
    hidden = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return code.attend(q, *rows, hidden, scaling)[0].transpose(0, 1).flatten(1), rows


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin
