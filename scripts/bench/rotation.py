"""Reproduces docs/benchmarks/rotation.md: what each rotation and bit width costs on the embedded real model.

Usage: python scripts/bench/rotation.py [--tasks piqa,arc_easy] [--max-tokens 8192] [--work FOLDER]

Every number comes from the same commands that a user runs; they are printed as they are run. The tables go to stdout.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

SETTINGS = {
    "none": ["--rotation", "none"],
    "quarot": ["--rotation", "quarot"],
    "gamma-sqp": [],
    "gamma-sqp, full range": ["--count-range", "full"],
    "gamma-sqp, min-max weights": ["--weight-clip", "none"],
    "gamma-sqp, T'=16": ["--steps", "16"],
    "gamma-sqp, 6-1.58": ["--bits", "6-1.58"],
    "gamma-sqp, 4-1": ["--bits", "4-1"],
}


def run(*arguments: str) -> Any:
    """One spikeconv command with `--json`; its answer."""
    command = ["spikeconv", *arguments]
    print("$", shlex.join(command), file=sys.stderr, flush=True)
    program = [sys.executable, "-c", "from spikeconv.cli.app import main; main()", *arguments, "--json", "--quiet"]
    return json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="piqa,arc_easy", help="lm-eval tasks for float and 4-1.58; empty: none")
    parser.add_argument("--max-tokens", default="8192")
    parser.add_argument("--work", type=Path, default=Path("demo-output/rotation"))
    options = parser.parse_args()
    print("| 4-1.58 unless said | T' | perplexity | × float | bits/byte | firing rate | weight error | bits/weight |")
    print("|---|---|---|---|---|---|---|---|")
    for index, (name, extra) in enumerate(SETTINGS.items()):
        out = str(options.work / str(index))
        made = run("convert", "smollm2-135m", "-o", out, "--force", *extra)
        baseline = [] if index else ["--baseline"]
        measured = run("perplexity", out, "--window", "1024", "--max-tokens", options.max_tokens, *baseline)
        if not index:
            float_perplexity = measured["baseline"]["perplexity"]
            float_bits = measured["baseline"]["bits_per_byte"]
            print(f"| float | | {float_perplexity:.2f} | 1 | {float_bits:.3f} | | | |")
        rate = run("report-firing-rate", out)["total"]["firing_rate"]
        print(
            f"| {name} | {made['virtual_steps']} | {measured['perplexity']:.2f} "
            f"| {measured['perplexity'] / float_perplexity:.2f} | {measured['bits_per_byte']:.3f} | {rate:.3f} "
            f"| {made['mean_relative_error']:.4f} | {made['bits_per_weight']:.2f} |",
            flush=True,
        )
    if options.tasks:
        main_setting = str(options.work / str(list(SETTINGS).index("gamma-sqp")))
        scores = run("eval", main_setting, "--tasks", options.tasks, "--baseline", "--data", "offline")
        print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
