"""Round-to-nearest weights: symmetric, one scale per output channel (the arithmetic is in `ops/rtn.py`)."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from spikeconv import ops
from spikeconv.config import WeightSettings
from spikeconv.errors import SpikeconvError
from spikeconv.weights.signs import round_to_sign, round_to_ternary

__all__ = ["QuantizedWeight", "Rounding", "dequantize", "quantize_blocks", "quantize_rtn", "rounding_of", "to_nearest"]

Rounding = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""Of rows [some, in]: packed, scale, row sums and squared error (see `ops.quantize_rtn`)."""


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
    return quantize_blocks([weight], len(weight), to_nearest(bits, search_clip))


def to_nearest(bits: int, search_clip: bool) -> Rounding:
    """Round to the nearest, with 2 to 8 bits; search the range of each row, or take its largest weight."""
    return partial(ops.quantize_rtn, bits=bits, search_clip=search_clip)


def rounding_of(settings: WeightSettings) -> Rounding:
    """How weights are rounded that no text is read for."""
    if settings.keeps_signs:
        return round_to_sign if settings.method == "sign" else round_to_ternary
    return to_nearest(settings.bits, settings.clip == "mse")


def quantize_blocks(blocks: Iterable[Tensor], rows: int, rounding: Rounding) -> QuantizedWeight:
    """Quantize a matrix that comes in blocks of rows: each row is rounded by itself.

    Args:
        blocks: [some, in] each.
        rows: of all of them.
        rounding: of a block.

    Raises:
        SpikeconvError: as `quantize_rtn`.
    """
    whole: list[Tensor] = []
    first, squares, power = 0, 0.0, 0.0
    for block in blocks:
        *parts, error = rounding(block)
        _check_finite(block, parts[1] * float(1 << parts[0].shape[-1] - 1) + error, first)
        norm = float(block.float().norm())
        if not 0 < norm < math.inf:  # of weights whose squares no float32 holds
            norm = float(block.double().norm())
        squares, power = squares + float(error.sum()), power + norm**2
        if len(block) == rows:
            whole = parts
        else:
            whole = whole or [part.new_empty((rows, *part.shape[1:])) for part in parts]
            for place, part in zip(whole, parts, strict=True):
                place[first : first + len(block)] = part
        first += len(block)
    packed, scale, row_sum = whole
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
