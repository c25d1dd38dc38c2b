from spikeconv.ops.accumulation import unfold_step
from spikeconv.ops.encoding import rms_norm
from spikeconv.ops.library import EXECUTIONS, accumulate, arrange, encode, linears, quantize_rtn, rotate
from spikeconv.ops.packing import Layout, pack, packed_shape, unpack, unpack_arranged

__all__ = [
    "EXECUTIONS",
    "Layout",
    "accumulate",
    "arrange",
    "encode",
    "linears",
    "pack",
    "packed_shape",
    "quantize_rtn",
    "rms_norm",
    "rotate",
    "unfold_step",
    "unpack",
    "unpack_arranged",
]
