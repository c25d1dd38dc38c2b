from spikeconv.nn.attention import COUNT_ATTENTION, KvCode, attention_codes
from spikeconv.nn.encoder import Encoder, FoldedNorm
from spikeconv.nn.gradients import version_of
from spikeconv.nn.group import SpikeGroup, check_shared
from spikeconv.nn.guard import finish_first_forward, guard_first_forward
from spikeconv.nn.layout import arrange_weights, set_execution
from spikeconv.nn.linear import EXECUTIONS, SpikeLinear, buffer_shapes, packed_row_sums, row_sums, spike_linears
from spikeconv.nn.plan import Cells
from spikeconv.nn.streams import run_streams
from spikeconv.nn.training import TrainedInput, TrainedLinear

__all__ = [
    "COUNT_ATTENTION",
    "EXECUTIONS",
    "Cells",
    "Encoder",
    "FoldedNorm",
    "KvCode",
    "SpikeGroup",
    "SpikeLinear",
    "TrainedInput",
    "TrainedLinear",
    "arrange_weights",
    "attention_codes",
    "buffer_shapes",
    "check_shared",
    "finish_first_forward",
    "guard_first_forward",
    "packed_row_sums",
    "row_sums",
    "run_streams",
    "set_execution",
    "spike_linears",
    "version_of",
]
