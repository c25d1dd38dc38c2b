from spikeconv.weights.rtn import dequantize, quantize_rtn, relative_error

__all__ = ["dequantize", "quantize_rtn", "relative_error"]
