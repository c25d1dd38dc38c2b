from spikeconv.nn.encoder import Encoder
from spikeconv.nn.linear import SpikeLinear, buffer_shapes, set_execution, spike_linears
from spikeconv.nn.recorder import Recorder

__all__ = ["Encoder", "Recorder", "SpikeLinear", "buffer_shapes", "set_execution", "spike_linears"]
