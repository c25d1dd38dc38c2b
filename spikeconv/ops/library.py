"""The `torch.library` schemas of the core. The reference serves every device until a native back end registers itself.

A back end registers an implementation of the same schema for its dispatch key (`CPU`, `CUDA`); nothing else changes.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from spikeconv.ops import reference

__all__ = ["EXECUTIONS", "accumulate", "encode_counts", "rotate"]

EXECUTIONS = ("dense", "events", "unfold")


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would run the float32 products inside in bfloat16, where integers are not exact."""

    @wraps(function)
    def run(x: Tensor, *arguments: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return function(x, *arguments)

    return run


_library = torch.library.Library("spikeconv", "DEF")
_library.define("rotate(Tensor x, Tensor signs, Tensor[] factors) -> Tensor")
_library.define(
    "encode_counts(Tensor u, int count_min, int count_max, bool symmetric, float clip_ratio)"
    " -> (Tensor counts, Tensor scale, Tensor zero_point)"
)
_library.define("accumulate(Tensor counts, Tensor weight, int largest_count, str execution) -> Tensor")
for _name in ("rotate", "encode_counts", "accumulate"):
    _library.impl(_name, _without_autocast(getattr(reference, _name)), "CompositeExplicitAutograd")


@torch.library.register_fake("spikeconv::rotate")
def _(x: Tensor, signs: Tensor, factors: list[Tensor]) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.register_fake("spikeconv::encode_counts")
def _(u: Tensor, count_min: int, count_max: int, symmetric: bool, clip_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.int8 if count_min >= -128 and count_max <= 127 else torch.int16
    token = (*u.shape[:-1], 1)
    return u.new_empty(u.shape, dtype=dtype), u.new_empty(token), u.new_empty(token, dtype=torch.int32)


@torch.library.register_fake("spikeconv::accumulate")
def _(counts: Tensor, weight: Tensor, largest_count: int, execution: str) -> Tensor:
    return counts.new_empty((*counts.shape[:-1], weight.shape[0]), dtype=torch.int32)


rotate = torch.ops.spikeconv.rotate.default
encode_counts = torch.ops.spikeconv.encode_counts.default
accumulate = torch.ops.spikeconv.accumulate.default
