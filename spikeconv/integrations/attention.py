"""Spike counts in the key-value cache of transformers' models.

The attention of a converted model is registered under its own name, and whatever cache the model is given (or makes)
holds rows of bytes (`ops.attention`) in place of floats: its layers encode what they are told to remember. A row is
the last axis of an ordinary tensor, so growing, sliding windows, cropping, beams and batches are transformers' own.
"""

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spikeconv.config import KvSettings
from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.families import Family, family_of, own_name
from spikeconv.integrations.memory import KEYWORDS, cache_among, memory_keyword, memory_of
from spikeconv.nn import COUNT_ATTENTION, KvCode, SpikeLinear

__all__ = [
    "CacheOf",
    "SpikingLayer",
    "SpikingWindowLayer",
    "cache_obstacle",
    "float_caches",
    "use_spiking_attention",
    "was_made",
]


class SpikingLayer(DynamicLayer):
    """A cache layer that grows, of rows."""

    def __init__(self, code: KvCode) -> None:
        super().__init__()
        self.code = code

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Encode new states [batch, heads, tokens, head_dim], and give all rows."""
        rows = self.code.rows(key_states, "k"), self.code.rows(value_states, "v")
        keys, values = super().update(*rows, *arguments, **options)
        return self.code.with_states(keys, key_states), self.code.with_states(values, value_states)


class SpikingWindowLayer(DynamicSlidingWindowLayer):
    """A cache layer that forgets what is outside of a sliding window, of rows."""

    def __init__(self, code: KvCode, sliding_window: int) -> None:
        super().__init__(sliding_window)
        self.code = code

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> Any:
        """Encode new states [batch, heads, tokens, head_dim], and give the rows that are in the window."""
        rows = self.code.rows(key_states, "k"), self.code.rows(value_states, "v")
        keys, values = super().update(*rows, *arguments, **options)
        return self.code.with_states(keys, key_states), self.code.with_states(values, value_states)


def use_spiking_attention(model: Any, scheme: KvSettings, seed: int) -> None:
    """Let a model write and use keys and values as spike counts, rotated with the signs of a seed."""
    codes = []
    family = family_of(model)
    if not family.has_attention:
        raise SpikeconvError(
            f"quantization_config asks for spike counts in the cache of {family.architecture}, which has none."
        )
    for stack in family.stacks:
        for layer in model.get_submodule(own_name(model, stack.layers)) if stack.attention else ():
            attention = layer.get_submodule(stack.attention)
            if scheme.group and attention.head_dim % scheme.group:
                raise SpikeconvError(
                    f"quantization_config: kv.group {scheme.group} does not divide head_dim {attention.head_dim}."
                )
            attention.kv = KvCode(scheme, attention.head_dim, seed)
            codes.append(attention.kv)
    if scheme.selects:
        _tell_holders(model, family)
    model.set_attn_implementation(COUNT_ATTENTION)
    model.base_model.register_forward_pre_hook(CacheOf(codes), with_kwargs=True)


def _tell_holders(model: Any, family: Family) -> None:
    """Tell every code which linears know the salient channels of its keys and values."""
    for linear in family.layout(model.config.get_text_config()):
        if linear.role not in ("k", "v"):
            continue
        name = own_name(model, linear.name)
        module, attention = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, SpikeLinear):
            raise SpikeconvError(f"{linear.name} is not converted, but kv.low_share needs it to be.")
        attention.kv.holders[linear.role] = module


def float_caches(model: Any, ids: Tensor) -> list[str]:
    """The layers of the cache that a forward pass over ids [batch, tokens] leaves which do not hold rows, as sentences.

    Empty also where the checkpoint does not ask for spike counts in its cache.
    """
    if not _asks_for_counts(model):
        return []
    with torch.inference_mode():
        cache = memory_of(model, model(ids, use_cache=True))
    if cache is None:
        return ["the model keeps no cache"]
    return [
        f"layer {index}: {type(layer).__name__} of {getattr(layer.keys, 'dtype', None)}"
        for index, layer in enumerate(cache.layers)
        if not isinstance(layer, SpikingLayer | SpikingWindowLayer)
        or layer.keys is None
        or layer.keys.dtype != torch.uint8
    ]


def was_made(cache: Cache) -> bool:
    """Whether nobody gave this empty cache to a forward: it was made for a model whose keys and values are counts."""
    return hasattr(cache, "_spikeconv_made") and not cache.get_seq_length()


def cache_obstacle(model: Any) -> str | None:
    """Why a model whose checkpoint asks for spike counts in its cache does not keep them; None if it does."""
    if not _asks_for_counts(model):
        return None
    if model.config._attn_implementation != COUNT_ATTENTION:
        return f"its attention is {model.config._attn_implementation!r}, not {COUNT_ATTENTION!r}"
    try:
        memory_keyword(model.base_model)
    except SpikeconvError as error:
        return str(error)
    return None


def _asks_for_counts(model: Any) -> bool:
    settings: Any = getattr(model.config, "quantization_config", None)
    return settings is not None and settings.spike_config().kv is not None


class CacheOf:
    """A hook that makes the cache of a forward pass one of rows; its layers know the codes of the model's."""

    def __init__(self, codes: list[KvCode]) -> None:
        self.codes = codes
        self.warned = False

    def __call__(self, model: Any, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of a forward, with a cache of rows among them where it uses one."""
        if model.config._attn_implementation != COUNT_ATTENTION:
            self._warn(model)
            return arguments, options
        if len(arguments) > 1:  # beyond the ids: a cache may be among them
            names = list(inspect.signature(type(model).forward).parameters)[1:]
            arguments, options = (), {**dict(zip(names, arguments, strict=False)), **options}
        cache = cache_among(options.values())
        uses_cache = options.get("use_cache")
        if cache is None and (model.config.use_cache if uses_cache is None else uses_cache):
            cache = DynamicCache(config=model.config)
            cache._spikeconv_made = True  # type: ignore[attr-defined]
            others = {name: value for name, value in options.items() if name not in KEYWORDS or value is not None}
            options = {**others, memory_keyword(model): cache}
        if cache is not None:
            self._convert(cache)
        return arguments, options

    def _warn(self, model: Any) -> None:
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"Keys and values stay float: the attention was set to {model.config._attn_implementation!r}; set_attn_"
                f"implementation({COUNT_ATTENTION!r}) brings the spike counts back that the checkpoint asks for.",
                SpikeconvWarning,
                stacklevel=2,
            )

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
        rows = code.rows(key, "k"), code.rows(value, "v")
        key, value = code.with_states(rows[0], key), code.with_states(rows[1], value)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return code.attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(COUNT_ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(COUNT_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
