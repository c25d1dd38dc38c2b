from spikeconv.ops.attention import attend_slots, pack_rows, row_bytes, unpack_rows
from spikeconv.ops.encoding import clip_potential, histogram_of, rms_norm
from spikeconv.ops.library import (
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
from spikeconv.ops.settings import EXECUTIONS, EncodeSettings, ProductSettings, RowSettings

__all__ = [
    "EXECUTIONS",
    "EncodeSettings",
    "Layout",
    "ProductSettings",
    "RowSettings",
    "accumulate",
    "arrange",
    "attend",
    "attend_slots",
    "clip_potential",
    "encode",
    "encode_rows",
    "histogram_of",
    "linears",
    "pack",
    "pack_rows",
    "packed_shape",
    "quantize_rtn",
    "rms_norm",
    "rotate",
    "row_bytes",
    "unpack",
    "unpack_arranged",
    "unpack_rows",
]
