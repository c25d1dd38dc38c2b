"""The `torch.library` schemas of the core. The reference serves every device that has no native back end.

A back end (`native`) registers an implementation of the same schema for its dispatch key (`CPU`, `CUDA`); nothing else
changes. It is loaded by the first call that reaches the reference on its device, which then starts anew; from then on
no Python stands between a call and its kernel.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from spikeconv.ops import accumulation, attention, encoding, native, packing, rtn

__all__ = [
    "EXECUTIONS",
    "accumulate",
    "arrange",
    "attend",
    "encode",
    "encode_rows",
    "linears",
    "quantize_rtn",
    "rotate",
]

EXECUTIONS = ("dense", "events", "unfold")
"""The three executions that must agree; "auto" is whichever of the first two a weight's layout is made for."""

SCHEMAS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rotate": ("(Tensor x, Tensor signs, Tensor[] bases, int power) -> Tensor", encoding.rotate),
    "encode": (
        "(Tensor x, Tensor? signs, Tensor[] bases, int power, Tensor? norm_weight, float norm_epsilon, int count_min,"
        " int count_max, bool symmetric, float clip_ratio, str clip, float threshold, bool with_statistics)"
        " -> (Tensor counts, Tensor scale, Tensor zero_point, Tensor statistics)",
        encoding.encode,
    ),
    "arrange": ("(Tensor packed, int in_features, str layout) -> Tensor", packing.arrange),
    "accumulate": (
        "(Tensor counts, Tensor weight, int out_features, int bits, int largest_count, str execution) -> Tensor",
        accumulation.accumulate,
    ),
    "linears": (
        "(Tensor counts, Tensor scale, Tensor? zero_point, Tensor[] weights, Tensor[] weight_scales,"
        " Tensor[] weight_sums, Tensor[] biases, int bits, int largest_count, ScalarType dtype, str execution)"
        " -> Tensor[]",
        accumulation.linears,
    ),
    "encode_rows": (
        "(Tensor x, Tensor signs, Tensor[] bases, int power, int bits, int group, bool symmetric, float[] clip_ratios,"
        " bool with_statistics) -> (Tensor rows, Tensor statistics)",
        attention.encode_rows,
    ),
    "attend": (
        "(Tensor query, Tensor keys, Tensor values, Tensor? mask, float scaling, int bits, int group, bool symmetric,"
        " str execution) -> Tensor",
        attention.attend,
    ),
    "quantize_rtn": (
        "(Tensor weight, int bits, bool search_clip) -> (Tensor packed, Tensor scale, Tensor sum, Tensor error)",
        rtn.quantize_rtn,
    ),
}


_asked: set[str] = set()
"""Devices whose native back end was looked for."""


def _kernel(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference as what serves a device until, and unless, it has a native back end."""

    @wraps(reference)
    def run(x: Tensor, *arguments: Any) -> Any:
        device = x.device.type
        if device not in _asked:
            native.ready(device)
            _asked.add(device)
            return getattr(torch.ops.spikeconv, name).default(x, *arguments)
        # Autocast would run the float32 products inside in bfloat16, where integers are not exact.
        with torch.autocast(device, enabled=False):
            return reference(x, *arguments)

    return run


_library = torch.library.Library("spikeconv", "DEF")
for _name, (_schema, _reference) in SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _kernel(_name, _reference), "CompositeExplicitAutograd")
# Rounding has no gradient; the default handler that says so costs more than a small product. `nn.gradients` has one.
# (The native CPU library defines `run_group`.)
for _name in (*SCHEMAS, "run_group"):
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")


@torch.library.register_fake("spikeconv::rotate")
def _(x: Tensor, signs: Tensor, bases: list[Tensor], power: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.register_fake("spikeconv::encode")
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count_min, count_max, with_statistics = arguments[5], arguments[6], arguments[-1]
    dtype = torch.int8 if count_min >= -128 and count_max <= 127 else torch.int16
    token = (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=dtype),
        x.new_empty(token, dtype=torch.float32),
        x.new_empty(token, dtype=torch.int32),
        x.new_empty(2 if with_statistics else 0, dtype=torch.int64),
    )


@torch.library.register_fake("spikeconv::arrange")
def _(packed: Tensor, in_features: int, layout: str) -> Tensor:
    out_features, words, bits = packed.shape
    nibble = bits <= packing.LARGEST_NIBBLE
    if layout == "columns":
        return packed.new_empty(in_features, (out_features + 1) // 2 if nibble else out_features)
    tiles = -(-out_features // packing.TILE)
    return packed.new_empty((tiles, words, packing.TILE, 4) if nibble else (tiles, words, 2, packing.TILE, 4))


@torch.library.register_fake("spikeconv::accumulate")
def _(counts: Tensor, weight: Tensor, out_features: int, bits: int, largest_count: int, execution: str) -> Tensor:
    return counts.new_empty((*counts.shape[:-1], out_features), dtype=torch.int32)


@torch.library.register_fake("spikeconv::linears")
def _(counts: Tensor, scale: Tensor, zero: Tensor | None, weights: Any, weight_scales: list[Tensor], *rest: Any) -> Any:
    return [counts.new_empty((*counts.shape[:-1], s.shape[0]), dtype=rest[-2]) for s in weight_scales]


@torch.library.register_fake("spikeconv::encode_rows")
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    bits, group, symmetric, _, with_statistics = arguments[3:]
    size = attention.row_bytes(x.shape[-1], bits, group, symmetric)
    statistics = x.new_empty(2 if with_statistics else 0, dtype=torch.int64)
    return x.new_empty((*x.shape[:-1], size), dtype=torch.uint8), statistics


@torch.library.register_fake("spikeconv::attend")
def _(query: Tensor, *arguments: Any) -> Tensor:
    return query.new_empty(query.shape, dtype=torch.float32)


@torch.library.register_fake("spikeconv::quantize_rtn")
def _(weight: Tensor, bits: int, search_clip: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = weight.shape
    return (
        weight.new_empty(packing.packed_shape(rows, columns, bits), dtype=torch.uint8),
        weight.new_empty(rows, dtype=torch.float32),
        weight.new_empty(rows, dtype=torch.int32),
        weight.new_empty(rows, dtype=torch.float64),
    )


rotate = torch.ops.spikeconv.rotate.default
encode = torch.ops.spikeconv.encode.default
arrange = torch.ops.spikeconv.arrange.default
accumulate = torch.ops.spikeconv.accumulate.default
attend = torch.ops.spikeconv.attend.default
encode_rows = torch.ops.spikeconv.encode_rows.default
linears = torch.ops.spikeconv.linears.default
quantize_rtn = torch.ops.spikeconv.quantize_rtn.default
