"""Round-to-nearest weights: symmetric, one scale per output channel (the arithmetic is in `ops/rtn.py`)."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.errors import SpikeconvError

__all__ = ["QuantizedWeight", "dequantize", "quantize_blocks", "quantize_rtn"]


class QuantizedWeight(NamedTuple):
    """A rounded weight.

    Attributes:
        packed: uint8 [out, ceil(in/8), bits].
        scale: float32 [out].
        sum: int32 [out], row sums of the integers.
        relative_error: ‖Ŵ - W‖ / ‖W‖ (Frobenius); 0 for an all-zero weight.
    """

    packed: Tensor
    scale: Tensor
    sum: Tensor
    relative_error: float


def quantize_rtn(weight: Tensor, bits: int, search_clip: bool) -> QuantizedWeight:
    """Quantize a float matrix [out, in]; an all-zero row gets scale 1 and zero weights.

    Raises:
        SpikeconvError: a weight, or what would stand for one, is not a finite float32.
    """
    return quantize_blocks([weight], bits, search_clip)


def quantize_blocks(blocks: Iterable[Tensor], bits: int, search_clip: bool) -> QuantizedWeight:
    """Quantize a matrix that comes in blocks of rows [rows, in]: each row is rounded by itself.

    Raises:
        SpikeconvError: as `quantize_rtn`.
    """
    parts: list[tuple[Tensor, ...]] = []
    row, squares, power = 0, 0.0, 0.0
    for block in blocks:
        packed, scale, row_sum, error = ops.quantize_rtn(block, bits, search_clip)
        _check_finite(block, scale * float(1 << bits - 1) + error, row)
        norm = float(block.float().norm())
        if not 0 < norm < math.inf:  # of weights whose squares no float32 holds
            norm = float(block.double().norm())
        row, squares, power = row + len(block), squares + float(error.sum()), power + norm**2
        parts.append((packed, scale, row_sum))
    packed, scale, row_sum = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    return QuantizedWeight(packed, scale, row_sum, (squares / power) ** 0.5 if power > 0 else 0.0)


def _check_finite(weight: Tensor, rounded: Tensor, first: int) -> None:
    if not rounded.isfinite().all():
        row = int(rounded.isfinite().logical_not().nonzero()[0])
        raise SpikeconvError(
            f"Row {first + row} of a weight holds {float(weight[row].float().abs().max()):.3g} (after the rotation, if "
            "there is one), which cannot be rounded in float32: the weight is damaged, and was not converted."
        )


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """Float32 weights [out, in] of quantized ones."""
    return values.float() * scale[:, None]
