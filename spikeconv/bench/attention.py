"""Keys and values as rows of counts: writing and using them, beside copies and torch's attention in the same run."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikeconv import ops
from spikeconv.bench.kernels import KernelRow
from spikeconv.bench.limits import DRAM_BYTES, Limits
from spikeconv.bench.shapes import CacheShape
from spikeconv.bench.timing import median_seconds
from spikeconv.nn.attention import CLIP_RATIOS
from spikeconv.rotation import Rotation

__all__ = ["bench_attention"]

BITS = 4
PEERS = {"bf16 sdpa": torch.bfloat16, "fp32 sdpa": torch.float32}
"""torch's attention over a cache of that dtype."""


def bench_attention(
    shapes: Sequence[CacheShape], limits: Limits, cached: Sequence[int], seconds: float = 0.3
) -> Iterator[KernelRow]:
    """Measure appending to a cache of 4-bit rows, and one more token's attention over it.

    Args:
        shapes: the layers.
        limits: the machine's.
        cached: tokens in the cache; appended in one call too, as a prompt is, after a single one.
        seconds: about how long each candidate is measured.
    """
    for shape in shapes:
        with torch.device(limits.device):
            rows = [_append_row(shape, limits, tokens, seconds) for tokens in (1, *cached)]
            rows += [_attend_row(shape, limits, length, seconds) for length in cached]
        yield from rows


def _settings(shape: CacheShape) -> list[float]:
    return ops.RowSettings(BITS, shape.head_dim, True, CLIP_RATIOS).table()


def _encode(shape: CacheShape, x: Tensor) -> Tensor:
    rotation = Rotation(shape.head_dim, 0).on(x.device)
    rows: Tensor = ops.encode_rows(x, rotation, _settings(shape), False)[0]
    return rows


def _append_row(shape: CacheShape, limits: Limits, tokens: int, seconds: float) -> KernelRow:
    states = [torch.randn(1, shape.key_heads, tokens, shape.head_dim) for _ in "kv"]
    kept = [torch.empty_like(x, dtype=torch.bfloat16) for x in states]
    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: [_encode(shape, x) for x in states],
        "bf16 copy": lambda: [to.copy_(x) for to, x in zip(kept, states, strict=True)],
    }
    taken = median_seconds(candidates, seconds, limits.device)
    ours, inputs = taken["ours"], 2 * states[0].numel()
    moved = inputs * 4 + 2 * _encode(shape, states[0]).numel()
    ratios = {"bf16 copy": taken["bf16 copy"] / ours}
    return KernelRow(
        "append", shape.label, tokens, 1.0, ours, inputs / ours, "dram", limits.share("dram", moved / ours), ratios
    )


def _attend_row(shape: CacheShape, limits: Limits, length: int, seconds: float) -> KernelRow:
    states = [torch.randn(1, shape.key_heads, length, shape.head_dim) for _ in "kv"]
    query = torch.randn(1, shape.heads, 1, shape.head_dim)
    rows = [_encode(shape, x) for x in states]
    scaling, settings = shape.head_dim**-0.5, _settings(shape)

    def attend(keys: Tensor, values: Tensor) -> object:
        return ops.attend(query, keys, values, None, scaling, settings, "auto")

    candidates = {"ours": _from_memory(attend, rows)}
    for name, dtype in PEERS.items():
        grouped = shape.heads != shape.key_heads
        sdpa = partial(F.scaled_dot_product_attention, query.to(dtype), enable_gqa=grouped)
        candidates[name] = _from_memory(sdpa, [x.to(dtype) for x in states])
    taken = median_seconds(candidates, seconds, limits.device)
    ours = taken.pop("ours")
    products = 2 * query.numel() * length
    fraction = limits.share("dram", sum(r.numel() for r in rows) / ours)
    ratios = {name: time / ours for name, time in taken.items()}
    return KernelRow("attend", shape.label, length, 1.0, ours, products / ours, "dram", fraction, ratios)


def _from_memory(run: Callable[..., object], cache: list[Tensor]) -> Callable[[], object]:
    """Calls with copies of a cache that together exceed the processor's, in turn, as the layers of a model come."""
    copies = max(1, DRAM_BYTES // 2 // sum(part.nbytes for part in cache))
    turns: Any = cycle([[part.clone() for part in cache] for _ in range(copies)])
    return lambda: run(*next(turns))
