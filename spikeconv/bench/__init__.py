from spikeconv.bench.attention import CACHES, bench_attention
from spikeconv.bench.kernels import SHAPES, KernelRow, bench_kernels
from spikeconv.bench.limits import Limits, measure_limits
from spikeconv.bench.models import ModelRow, bench_model

__all__ = [
    "CACHES",
    "SHAPES",
    "KernelRow",
    "Limits",
    "ModelRow",
    "bench_attention",
    "bench_kernels",
    "bench_model",
    "measure_limits",
]
