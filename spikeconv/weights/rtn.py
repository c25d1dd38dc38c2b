"""Round-to-nearest weights: symmetric, one scale per output channel (the arithmetic is in `ops/rtn.py`)."""

import math
from typing import NamedTuple

from torch import Tensor

from spikeconv import ops
from spikeconv.errors import SpikeconvError

__all__ = ["QuantizedWeight", "dequantize", "quantize_rtn"]


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
    packed, scale, row_sum, error = ops.quantize_rtn(weight, bits, search_clip)
    if not (scale * float(1 << bits - 1)).isfinite().all() or not error.isfinite().all():
        row = int((scale * float(1 << bits - 1) + error).isfinite().logical_not().nonzero()[0])
        raise SpikeconvError(
            f"Row {row} of a weight holds {float(weight[row].float().abs().max()):.3g} (after the rotation, if there is"
            " one), which cannot be rounded in float32: the weight is damaged, and was not converted."
        )
    norm = float(weight.float().norm())
    if not 0 < norm < math.inf:  # of weights whose squares no float32 holds
        norm = float(weight.double().norm())
    return QuantizedWeight(packed, scale, row_sum, float(error.sum()) ** 0.5 / norm if norm > 0 else 0.0)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """Float32 weights [out, in] of quantized ones."""
    return values.float() * scale[:, None]
