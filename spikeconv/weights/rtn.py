"""Round-to-nearest weights: symmetric, one scale per output channel (the arithmetic is in `ops/rtn.py`)."""

from typing import NamedTuple

from torch import Tensor

from spikeconv import ops

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
    """Quantize a float matrix [out, in]; an all-zero row gets scale 1 and zero weights."""
    packed, scale, row_sum, error = ops.quantize_rtn(weight, bits, search_clip)
    norm = float(weight.float().norm())
    return QuantizedWeight(packed, scale, row_sum, float(error.sum()) ** 0.5 / norm if norm > 0 else 0.0)


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """Float32 weights [out, in] of quantized ones."""
    return values.float() * scale[:, None]
