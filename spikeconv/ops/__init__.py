from spikeconv.ops.accumulation import unfold_step
from spikeconv.ops.attention import pack_rows, row_bytes, unpack_rows
from spikeconv.ops.encoding import clip_potential, rms_norm
from spikeconv.ops.library import (
    EXECUTIONS,
    accumulate,
    arrange,
    attend,
    encode,
    encode_rows,
    linears,
    quantize_rtn,
    rotate,
)
from spikeconv.ops.packing import Layout, pack, packed_shape, unpack, unpack_arranged

__all__ = [
    "EXECUTIONS",
    "Layout",
    "accumulate",
    "arrange",
    "attend",
    "clip_potential",
    "encode",
    "encode_rows",
    "linears",
    "pack",
    "pack_rows",
    "packed_shape",
    "quantize_rtn",
    "rms_norm",
    "rotate",
    "row_bytes",
    "unfold_step",
    "unpack",
    "unpack_arranged",
    "unpack_rows",
]
