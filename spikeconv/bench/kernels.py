"""Every op as a fraction of the machine's limit, beside torch's products for the same layer in the same run."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.bench.limits import DRAM_BYTES, Limits
from spikeconv.bench.peers import PEERS
from spikeconv.bench.shapes import Shape
from spikeconv.bench.timing import median_seconds
from spikeconv.nn.memory import LargePages
from spikeconv.rotation import Rotation

__all__ = ["KernelRow", "bench_kernels"]

BITS = 4
LARGEST = 8
FEW_TOKENS = 4
"""Up to here a product is bound by reading its weights."""


SLOWEST = 1.0
"""Seconds a call above which a peer is left out: it would take minutes and tell nothing new."""


@dataclass(frozen=True)
class KernelRow:
    """One measurement.

    Attributes:
        op: "dense", "events", "encode", "rtn" (rotation, rounding, packing) or "rtn search" (with clip search);
            "append" (keys and values become rows) or "attend" (one token, over a cache of rows).
        shape: `model group in→out`, or a cache's label.
        tokens: tokens in one call (rows, for weights; tokens in the cache, for attend).
        nonzero: share of non-zero counts.
        seconds: median.
        rate: a second, in products with a count (dense, events, attend), inputs (encode, append) or weights (rtn).
        limit: what `fraction` is a share of: macs, dram (bytes that must be read, and written by append), or the
            dense product's time.
        fraction: share of the limit that was reached; for encode, its time over the product's.
        ratios: peers' time over ours.
    """

    op: str
    shape: str
    tokens: int
    nonzero: float
    seconds: float
    rate: float
    limit: str
    fraction: float
    ratios: dict[str, float]


def bench_kernels(
    shapes: Sequence[Shape],
    limits: Limits,
    tokens: Sequence[int],
    nonzero: Sequence[float],
    seconds: float = 0.3,
    peers: Sequence[str] = tuple(PEERS),
) -> Iterator[KernelRow]:
    """Measure products, encoders and quantization of some layers.

    Args:
        shapes: the layers.
        limits: the machine's.
        tokens: tokens in one call.
        nonzero: shares of non-zero counts; below 1 for one token only, where events may skip columns.
        seconds: about how long each candidate is measured.
        peers: names out of `PEERS`.
    """
    for shape in shapes:
        with torch.device(limits.device):
            rows = [row for m in tokens for row in _dense_rows(shape, limits, m, seconds, peers)]
            rows += _events_rows(shape, limits, nonzero, seconds)
            if limits.device == "cpu":  # elsewhere rounding is torch's
                rows += _rtn_rows(shape, limits, seconds)
        yield from rows


class _Weights:
    """Copies of a group's weights that together exceed the caches, to be used in turn."""

    def __init__(self, shape: Shape, layout: str, few: bool) -> None:
        copies = max(1, DRAM_BYTES // 2 // (shape.weights // 2)) if few else 1
        parts = []
        for out in shape.outputs:
            packed = torch.randint(256, ops.packed_shape(out, shape.inputs, BITS), dtype=torch.uint8)
            parts.append(ops.arrange(packed, shape.inputs, layout))
        pages = LargePages()  # as in a loaded model
        scales = [torch.rand(out) for out in shape.outputs]
        self._turns = cycle([_operands(_copy(parts, layout, pages), scales) for _ in range(copies)])

    def __next__(self) -> list[Tensor | None]:
        """Operands of `ops.linears`, made beforehand: what is measured is the call."""
        return next(self._turns)


def _operands(weights: list[Tensor], scales: list[Tensor]) -> list[Tensor | None]:
    return [each for pair in zip(weights, scales, strict=True) for each in (*pair, None, None)]


def _copy(parts: list[Tensor], layout: str, pages: LargePages) -> list[Tensor]:
    place = torch.clone if parts[0].is_cuda else pages.place
    if layout != "columns":
        return [place(part) for part in parts]
    return list(place(torch.cat(parts, 1)).split([p.shape[1] for p in parts], 1))


def _product(weights: _Weights, counts: Tensor, execution: str) -> Callable[[], object]:
    scale = torch.rand(counts.shape[0], 1)
    settings = ops.ProductSettings(BITS, LARGEST, execution).table()

    def run() -> object:
        return ops.linears(counts, scale, None, next(weights), settings, torch.float32)

    return run


def _dense_rows(shape: Shape, limits: Limits, tokens: int, seconds: float, peers: Sequence[str]) -> Iterator[KernelRow]:
    few = tokens <= FEW_TOKENS
    counts = torch.randint(-7, 8, (tokens, shape.inputs), dtype=torch.int8)
    rotation = Rotation(shape.inputs, 0).on(counts.device)
    x = torch.randn(tokens, shape.inputs)
    encode = partial(ops.encode, x, rotation, None, None, ops.EncodeSettings(-8, 7, True, 0.9).table(), False)
    candidates: dict[str, Callable[[], object]] = {
        "ours": _product(_Weights(shape, "tiles", few), counts, "dense"),
        "encode": encode,
    }
    candidates |= _peers(shape, counts, few, peers)
    taken = median_seconds(candidates, seconds, limits.device)
    ours, encoding = taken.pop("ours"), taken.pop("encode")
    limit, work = ("dram", shape.weights / 2) if few else ("macs", tokens * shape.weights)
    fraction = limits.share(limit, work / ours)
    ratios = {name: time / ours for name, time in taken.items()}
    yield KernelRow("dense", shape.label, tokens, 1.0, ours, tokens * shape.weights / ours, limit, fraction, ratios)
    yield KernelRow("encode", shape.label, tokens, 1.0, encoding, x.numel() / encoding, "dense", encoding / ours, {})


def _peers(shape: Shape, counts: Tensor, few: bool, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """What of torch's products runs here; they see the group's weights as one matrix."""
    weight = torch.randint(-8, 8, (sum(shape.outputs), shape.inputs)).float()
    x = counts.float()
    result: dict[str, Callable[[], object]] = {}
    for name in names:
        try:
            calls = [PEERS[name](x, weight.clone()) for _ in range(2 if few else 1)]
            start = time.perf_counter()
            calls[0]()
            if x.is_cuda:
                torch.cuda.synchronize()
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
        if time.perf_counter() - start > SLOWEST:
            continue
        result[name] = partial(_next_call, cycle(calls))
    return result


def _next_call(turns: Iterator[Callable[[], object]]) -> object:
    return next(turns)()


def _events_rows(shape: Shape, limits: Limits, nonzero: Sequence[float], seconds: float) -> Iterator[KernelRow]:
    columns, tiles = (_Weights(shape, layout, few=True) for layout in ("columns", "tiles"))
    for share in nonzero:
        yield _events_row(shape, columns, tiles, limits, share, seconds)


def _events_row(
    shape: Shape, columns: _Weights, tiles: _Weights, limits: Limits, nonzero: float, seconds: float
) -> KernelRow:
    fired = torch.rand(1, shape.inputs) < nonzero
    counts = torch.randint(1, 8, (1, shape.inputs), dtype=torch.int8) * fired
    candidates = {
        "events": _product(columns, counts, "events"),
        "dense": _product(tiles, counts, "dense"),
    }
    taken = median_seconds(candidates, seconds, limits.device)
    products = shape.weights * float(fired.float().mean()) / taken["events"]
    ratio = {"our dense": taken["dense"] / taken["events"]}
    fraction = limits.share("dram", products / 2)
    return KernelRow("events", shape.label, 1, nonzero, taken["events"], products, "dram", fraction, ratio)


def _rtn_rows(shape: Shape, limits: Limits, seconds: float) -> Iterator[KernelRow]:
    weight, rotation = torch.randn(sum(shape.outputs), shape.inputs), Rotation(shape.inputs, 0)
    runs = {op: partial(_convert, weight, rotation, search) for op, search in (("rtn", False), ("rtn search", True))}
    for op, taken in median_seconds(runs, seconds).items():
        rate = shape.weights / taken
        yield KernelRow(op, shape.label, len(weight), 1.0, taken, rate, "dram", limits.share("dram", 4 * rate), {})


def _convert(weight: Tensor, rotation: Rotation, search: bool) -> object:
    return ops.quantize_rtn(rotation(weight), BITS, search)
