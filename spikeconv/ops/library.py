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

from spikeconv.errors import SpikeconvError
from spikeconv.ops import accumulation, attention, encoding, native, packing, rtn
from spikeconv.ops.settings import EncodeSettings, RowSettings

__all__ = [
    "accumulate",
    "arrange",
    "attend",
    "encode",
    "encode_rows",
    "linears",
    "quantize_rtn",
    "rotate",
]

SCHEMAS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rotate": ("(Tensor x, Tensor[] rotation) -> Tensor", encoding.rotate),
    "encode": (
        "(Tensor x, Tensor[] rotation, Tensor? norm_weight, Tensor? threshold, float[] settings, bool histogram)"
        " -> (Tensor counts, Tensor scale, Tensor zero_point, Tensor histogram)",
        encoding.encode,
    ),
    "arrange": ("(Tensor packed, int in_features, str layout) -> Tensor", packing.arrange),
    "accumulate": (
        "(Tensor counts, Tensor weight, Tensor? digits, int out_features, float[] settings) -> Tensor",
        accumulation.accumulate,
    ),
    "linears": (
        "(Tensor counts, Tensor scale, Tensor? zero_point, Tensor?[] operands, float[] settings, ScalarType dtype)"
        " -> Tensor[]",
        accumulation.linears,
    ),
    "encode_rows": (
        "(Tensor x, Tensor[] rotation, float[] settings, bool histogram) -> (Tensor rows, Tensor histogram)",
        attention.encode_rows,
    ),
    "attend": (
        "(Tensor query, Tensor keys, Tensor values, Tensor? mask, float scaling, float[] settings, str execution)"
        " -> Tensor",
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


def _fake(name: str) -> Callable[[Callable[..., Any]], None]:
    """Registers what gives an operator's results without values, for compilers and for the meta device.

    torch also calls it where one tensor of many is on the meta device, and would take empty results for numbers.
    """

    def register(results: Callable[..., Any]) -> None:
        @wraps(results)
        def checked(x: Tensor, *arguments: Any) -> Any:
            if type(x) is Tensor and not x.is_meta:
                raise SpikeconvError(f"{name}: a tensor is on the meta device, without values, but the input is not.")
            return results(x, *arguments)

        torch.library.register_fake(f"spikeconv::{name}", checked)

    return register


@_fake("rotate")
def _(x: Tensor, rotation: list[Tensor]) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@_fake("encode")
def _(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings, histogram = EncodeSettings.of(arguments[-2]), arguments[-1]
    token = (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=torch.int16 if settings.is_wide else torch.int8),
        x.new_empty(token, dtype=torch.float32),
        x.new_empty(token, dtype=torch.int32),
        x.new_empty(settings.bins if histogram else 0, dtype=torch.int64),
    )


@_fake("arrange")
def _(packed: Tensor, in_features: int, layout: str) -> Tensor:
    out_features, words, bits = packed.shape
    nibble = bits <= packing.LARGEST_NIBBLE
    if layout == "columns":
        return packed.new_empty(in_features, (out_features + 1) // 2 if nibble else out_features)
    tiles = -(-out_features // packing.TILE)
    return packed.new_empty((tiles, words, packing.TILE, 4) if nibble else (tiles, words, 2, packing.TILE, 4))


@_fake("accumulate")
def _(counts: Tensor, weight: Tensor, digits: Tensor | None, out_features: int, settings: list[float]) -> Tensor:
    return counts.new_empty((*counts.shape[:-1], out_features), dtype=torch.int32)


@_fake("linears")
def _(counts: Tensor, scale: Tensor, zero: Tensor | None, operands: Any, settings: Any, dtype: Any) -> list[Tensor]:
    return [counts.new_empty((*counts.shape[:-1], s.shape[0]), dtype=dtype) for s in operands[1::4]]


@_fake("encode_rows")
def _(x: Tensor, rotation: list[Tensor], settings: list[float], histogram: bool) -> tuple[Tensor, Tensor]:
    chosen = RowSettings.of(settings, x.shape[-1])
    rows = x.new_empty((*x.shape[:-1], attention.row_bytes(x.shape[-1], chosen)), dtype=torch.uint8)
    return rows, x.new_empty(chosen.bins if histogram else 0, dtype=torch.int64)


@_fake("attend")
def _(query: Tensor, *arguments: Any) -> Tensor:
    return query.new_empty(query.shape, dtype=torch.float32)


@_fake("quantize_rtn")
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
