"""Spike counts in the key-value cache of transformers' models.

The attention of a converted model is registered under its own name, and whatever cache the model is given (or makes)
holds rows of bytes (`ops.attention`) in place of floats: its layers encode what they are told to remember. A row is
the last axis of an ordinary tensor, so growing, sliding windows, cropping, beams and batches are transformers' own.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from spikeconv.config import LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of
from spikeconv.integrations.memory import cache_among, memory_keyword
from spikeconv.nn import KvCode

__all__ = ["NAME", "use_spiking_attention"]

NAME = "spikeconv"
"""Name of the attention in `config._attn_implementation`."""


class SpikingLayer(DynamicLayer):
    """A cache layer that grows, of rows."""

    def __init__(self, code: KvCode) -> None:
        super().__init__()
        self.code = code

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Encode new states [batch, heads, tokens, head_dim], and give all rows."""
        return super().update(self.code.rows(key_states, "k"), self.code.rows(value_states, "v"), *arguments, **options)


class SpikingWindowLayer(DynamicSlidingWindowLayer):
    """A cache layer that forgets what is outside of a sliding window, of rows."""

    def __init__(self, code: KvCode, sliding_window: int) -> None:
        super().__init__(sliding_window)
        self.code = code

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Encode new states [batch, heads, tokens, head_dim], and give the rows that are in the window."""
        return super().update(self.code.rows(key_states, "k"), self.code.rows(value_states, "v"), *arguments, **options)


def use_spiking_attention(model: Any, scheme: LinearScheme, group: int) -> None:
    """Let a model write and use keys and values as spike counts."""
    _register()
    codes = []
    family = family_of(model)
    for layer in model.get_submodule(family.layers):
        attention = layer.get_submodule(family.attention)
        attention.kv = KvCode(scheme, attention.head_dim, group)
        codes.append(attention.kv)
    model.set_attn_implementation(NAME)
    model.base_model.register_forward_pre_hook(_CacheOf(codes), with_kwargs=True)


class _CacheOf:
    """A hook that makes the cache of a forward pass one of rows; its layers know the codes of the model's."""

    def __init__(self, codes: list[KvCode]) -> None:
        self.codes = codes

    def __call__(self, model: Any, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cache = cache_among((*arguments, *options.values()))
        uses_cache = options.get("use_cache")
        if cache is None and (model.config.use_cache if uses_cache is None else uses_cache):
            cache = DynamicCache(config=model.config)
            options = {**options, memory_keyword(model): cache}
        if cache is not None:
            self._convert(cache)
        return arguments, options

    def _convert(self, cache: Cache) -> None:
        for index, code in enumerate(self.codes):
            if index == len(cache.layers):  # a cache that was made without a config grows as it is filled
                cache.layers.append(SpikingLayer(code))
            layer: Any = cache.layers[index]
            if isinstance(layer, SpikingLayer | SpikingWindowLayer):
                if layer.code.geometry != code.geometry:
                    raise SpikeconvError(f"The cache holds {layer.code.geometry}; the model uses {code.geometry}.")
            elif layer.get_seq_length():
                raise SpikeconvError("The cache holds keys and values of another model, in floating point.")
            elif type(layer) is DynamicLayer:
                cache.layers[index] = SpikingLayer(code)
            elif type(layer) is DynamicSlidingWindowLayer:
                cache.layers[index] = SpikingWindowLayer(code, layer.sliding_window)
            else:
                raise SpikeconvError(f"A cache with {type(layer).__name__} cannot hold spike counts; use DynamicCache.")


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """In the signature of transformers' attention functions; without a cache, keys and values come as floats."""
    code: KvCode = module.kv
    if key.dtype != torch.uint8:
        key, value = code.rows(key, "k"), code.rows(value, "v")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return code.attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
