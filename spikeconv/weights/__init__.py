from spikeconv.weights.calibrated import CalibratedWeight, quantize_calibrated
from spikeconv.weights.hessian import Statistics
from spikeconv.weights.rtn import QuantizedWeight, dequantize, quantize_blocks, quantize_rtn, rounding_of, to_nearest

__all__ = [
    "CalibratedWeight",
    "QuantizedWeight",
    "Statistics",
    "dequantize",
    "quantize_blocks",
    "quantize_calibrated",
    "quantize_rtn",
    "rounding_of",
    "to_nearest",
]
