from spikeconv.weights.rtn import QuantizedWeight, dequantize, quantize_rtn

__all__ = ["QuantizedWeight", "dequantize", "quantize_rtn"]
