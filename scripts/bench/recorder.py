"""How much a Recorder slows a forward pass: `python scripts/bench/recorder.py CHECKPOINT [--tokens 512]`.

Passes with and without it alternate in one process, so that a busy machine slows both; medians are compared.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from spikeconv.evaluate.models import load_checkpoint
from spikeconv.record.recorder import Recorder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--passes", type=int, default=15)
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint).model
    ids = torch.randint(1000, (1, options.tokens), device=model.device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    recorder = Recorder(model)
    with torch.inference_mode():
        for index in range(2 * options.passes + 2):
            recorded = bool(index % 2)
            start = time.perf_counter()
            if recorded:
                with recorder:
                    model(ids, use_cache=False, logits_to_keep=1)
            else:
                model(ids, use_cache=False, logits_to_keep=1)
            if index >= 2:  # the first of each warms up
                seconds[recorded].append(time.perf_counter() - start)
    plain, counted = statistics.median(seconds[False]), statistics.median(seconds[True])
    print(f"{options.tokens} tokens: {plain:.3f} s, recorded {counted:.3f} s, ratio {counted / plain:.3f}")


if __name__ == "__main__":
    main()
