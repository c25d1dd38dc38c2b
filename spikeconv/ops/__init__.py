from spikeconv.ops.library import EXECUTIONS, accumulate, encode_counts, rotate
from spikeconv.ops.packing import pack, packed_shape, unpack

__all__ = ["EXECUTIONS", "accumulate", "encode_counts", "pack", "packed_shape", "rotate", "unpack"]
