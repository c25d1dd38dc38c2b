"""A checkpoint by the engine, by its modules, and the float model it came from: see docs/benchmarks/engine.md.

Usage: python scripts/bench/modules.py CHECKPOINT [--prompt 512] [--tokens 32] [--seconds 1]

All three in turns, so that a busy machine slows them alike; medians. The modules have the head that the engine has.
"""

import argparse
from pathlib import Path

import torch
from ragged import processor

from spikeconv.bench.models import model_calls, speeds
from spikeconv.evaluate.models import load_converted, load_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    engine, modules = (load_converted(options.checkpoint, device="cpu", dtype="float32") for _ in range(2))
    del modules.base_model.forward
    models = {
        "HF fp32": load_source(options.checkpoint, None, device="cpu", dtype="float32").model,
        "modules": modules,
        "engine": engine,
    }
    found = speeds(model_calls(models, options.prompt), options.prompt, options.tokens, options.seconds)
    print(f"{processor()}, {torch.get_num_threads()} threads\n")
    for run, rates in ((f"prefill {options.prompt}", found.prefill), ("decode", found.decode)):
        for name, rate in rates.items():
            print(f"{run:14}{name:10}{rate:10.1f} tokens/s{rate / rates['HF fp32']:8.2f} x")


if __name__ == "__main__":
    main()
