"""Makes the tables of docs/benchmarks/kernels.md: every kernel beside the machine's limit and torch's products.

Usage: python scripts/bench/native_kernels.py [--shapes smollm2-135m,…] [--tokens 1,4] [--cached 512,2048]
    [--caches-only] [--seconds 0.1] [--device cuda]

Markdown goes to stdout. Ratios are the other's time over ours, medians of alternating turns in this one run; a peer
that needs more than a second a call is left out. For a whole model see `spikeconv bench --model`.
"""

import argparse
import platform
import sys

import torch

from spikeconv.bench.attention import bench_attention
from spikeconv.bench.kernels import KernelRow, bench_kernels
from spikeconv.bench.limits import measure_limits
from spikeconv.bench.shapes import CACHES, SHAPES

OPS = ("dense", "events", "encode", "rtn", "rtn search", "append", "attend")
NONZERO = (1.0, 0.8, 0.5, 0.3, 0.1)


def table(rows: list[KernelRow]) -> None:
    peers = list(dict.fromkeys(name for row in rows for name in row.ratios))
    columns = ("layer", "tokens", "non-zero", "µs", "G/s", "of limit", *peers)
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for row in rows:
        ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in peers]
        numbers = (str(row.tokens), f"{row.nonzero:g}", f"{row.seconds * 1e6:.0f}", f"{row.rate / 1e9:.3g}")
        cells = (row.shape, *numbers, f"{row.fraction:.0%} {row.limit}", *ratios)
        print("|", " | ".join(cell.replace("|", "\\|") for cell in cells), "|")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--tokens", default="1,4,16,256,2048")
    parser.add_argument("--cached", default="128,512,2048,8192")
    parser.add_argument("--caches-only", action="store_true", help="only keys and values")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    tokens, cached = ([int(part) for part in text.split(",")] for text in (options.tokens, options.cached))
    limits = measure_limits(1.0, options.device)
    print(f"{platform.machine()}, torch {torch.__version__}, {limits}\n")
    rows: list[KernelRow] = []
    for name in options.shapes.split(","):
        for shape in () if options.caches_only else SHAPES[name]:
            print(shape.label, file=sys.stderr, flush=True)
            rows += bench_kernels([shape], limits, tokens, NONZERO, options.seconds)
        if name in CACHES:
            print(CACHES[name].label, file=sys.stderr, flush=True)
            rows += bench_attention([CACHES[name]], limits, cached, options.seconds)
    for op in OPS:
        if found := [row for row in rows if row.op == op]:
            print(f"### {op}\n")
            table(found)


if __name__ == "__main__":
    main()
