"""A token of a checkpoint of any size, against what this machine's memory allows: see docs/benchmarks/engine.md.

Usage: python scripts/bench/decode.py CHECKPOINT [--keys 64] [--tokens 24] [--head-bits 8]

LLaMA2-7B's shapes need no weights from a hub: `scripts/bench/convert.py --size 7b` makes random ones; convert those.
What a token must read: packed weights and scales of all linears, the head, keys and values. The limit is measured
between tokens.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from ragged import processor

from spikeconv.bench.limits import measure_limits
from spikeconv.engine import PARTS, Engine, Sequence, head_of
from spikeconv.evaluate.models import load_converted
from spikeconv.nn import spike_linears


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--head-bits", type=int, choices=[8])
    options = parser.parse_args()
    model = load_converted(options.checkpoint, device="cpu", dtype="float32")
    engine = Engine(model, head_bits=options.head_bits)
    cache = engine.cache(1, options.keys + 1)
    head = head_of(model.get_output_embeddings().weight, options.head_bits)
    read = {
        "linears": sum(linear.weight.nbytes + linear.weight_scale.nbytes for linear in spike_linears(model).values()),
        "head": head.weight.nbytes + (0 if head.scale is None else head.scale.nbytes),
        "keys and values": cache.keys.nbytes + cache.values.nbytes,
    }
    token, one = torch.tensor([7]), torch.tensor([0])
    sequences = [Sequence(1, at=options.keys, position=options.keys)]
    engine.forward(token, sequences, cache, one, logits=True)
    engine.seconds.zero_()
    limits, seconds = [measure_limits()], []
    for step in range(options.tokens):
        begin = time.perf_counter()
        engine.forward(token, sequences, cache, one, logits=True)
        seconds.append(time.perf_counter() - begin)
        if step % 8 == 7:
            limits.append(measure_limits())
    taken, dram = statistics.median(seconds), max(limit.dram for limit in limits)
    total = sum(read.values())
    print(f"{processor()}, {limits[0].kernels}, {limits[0].threads} threads, {dram / 1e9:.1f} GB/s from memory\n")
    print(f"a token reads {total / 1e6:,.0f} MB: " + ", ".join(f"{n / 1e6:,.0f} {name}" for name, n in read.items()))
    print(f"{1e3 * taken:.1f} ms (best {1e3 * min(seconds):.1f}), {1 / taken:.1f} tokens/s")
    print(f"{total / taken / 1e9:.1f} GB/s: {total / taken / dram:.0%} of the limit")
    shares = zip(PARTS, (engine.seconds / engine.seconds.sum()).tolist(), strict=True)
    print(", ".join(f"{name} {share:.0%}" for name, share in shares))


if __name__ == "__main__":
    main()
