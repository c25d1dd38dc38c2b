"""What a product of one token costs, dense or by events: an estimate from constants measured at the first use."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.nn.memory import LargePages
from spikeconv.ops.packing import TILE

__all__ = ["Costs", "measured_costs"]

BYTES = 64 << 20
"""Of the weights measured with: more than the caches hold."""
LONG, SHORT = 1 << 14, 1 << 10
"""Bytes of a column."""
FIRED = 10
"""One input in so many fires."""
TURNS = 9


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a call with one token.

    Attributes:
        dense: a byte of weights in tiles.
        inputs: an input that events look at.
        column: a column that they begin.
        byte: a byte of it that they read.
    """

    dense: float
    inputs: float
    column: float
    byte: float

    def prefer_events(self, zero_share: float, inputs: int, column_bytes: int) -> bool:
        """Whether events are faster, for inputs of which that share is zero, and columns of so many bytes."""
        fired = (1 - zero_share) * inputs
        events = inputs * self.inputs + fired * (self.column + column_bytes * self.byte)
        return events < inputs * column_bytes * self.dense


@cache
def measured_costs(device: str, threads: int, nibbles: bool) -> Costs:
    """The costs on a device with its native kernels; some tenths of a second at the first call.

    Args:
        device: "cpu", "cuda:0", …
        threads: torch's.
        nibbles: whether weights take a nibble (up to 4 bits) or a byte.
    """
    weights = torch.full((BYTES,), 0x5A, dtype=torch.uint8, device=device)
    weights = LargePages().place(weights) if weights.is_cpu else weights
    word = (TILE, 4) if nibbles else (2, TILE, 4)
    small = _seconds(weights[: 16 * TILE * 8].view(-1, 2, *word), torch.ones(1, 16, dtype=torch.int8), nibbles)
    dense = _seconds(weights.view(-1, 512, *word), torch.ones(1, 4096, dtype=torch.int8), nibbles)
    nothing, short = (
        _seconds(weights.view(-1, SHORT), _every(BYTES // SHORT, part), nibbles) for part in (None, FIRED)
    )
    long = _seconds(weights.view(-1, LONG), _every(BYTES // LONG, FIRED), nibbles)
    inputs = max(nothing - small, 0) / (BYTES // SHORT)
    byte = max(long - small - BYTES // LONG * inputs, 0) / (BYTES // FIRED)
    column = max(short - nothing - BYTES // FIRED * byte, 0) / (BYTES // SHORT // FIRED)
    return Costs(max(dense - small, 0) / BYTES, inputs, column, byte)


def _every(inputs: int, part: int | None) -> Tensor:
    counts = torch.zeros(1, inputs, dtype=torch.int8)
    counts[:, :: part or inputs + 1] = 1 if part else 0
    return counts


def _seconds(weight: Tensor, counts: Tensor, nibbles: bool) -> float:
    """The shortest of some calls: what else the machine does meanwhile is none of the product's cost."""
    columns = weight.dim() == 2
    outputs = weight.shape[1] * (2 if nibbles else 1) if columns else weight.shape[0] * TILE
    settings = ops.ProductSettings(4 if nibbles else 8, 1, "events" if columns else "dense").table()
    counts = counts.to(weight.device)
    return min(_timed(lambda: ops.accumulate(counts, weight, None, outputs, settings)) for _ in range(TURNS))


def _timed(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    if run().is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
