"""Reproduces docs/benchmarks/rotation.md: what each rotation and bit width costs on the embedded real model.

Usage: python scripts/bench/rotation.py [--max-tokens 4096] [--work FOLDER]

Every number comes from the commands that a user runs; they are shown on stderr as they are run. The table goes to
stdout. Two texts: the BoolQ passages (`perplexity`'s offline text) and the documentation that ships with Python.
"""

import argparse
from pathlib import Path

from commands import python_documentation, run

SETTINGS = {
    "gamma-sqp": [],
    "quarot": ["--rotation", "quarot"],
    "none": ["--rotation", "none"],
    "gamma-sqp, T'=16": ["--steps", "16"],
    "gamma-sqp, 6-1.58": ["--bits", "6-1.58"],
    "gamma-sqp, 4-1": ["--bits", "4-1"],
    "gamma-sqp, full range": ["--count-range", "full"],
    "gamma-sqp, min-max weights": ["--weight-clip", "none"],
    "16-1.58 (float weights)": ["--bits", "16-1.58"],
    "4-16 (float activations)": ["--bits", "4-16"],
    "gamma-sqp, seed 0": ["--seed", "0"],
    "quarot, seed 0": ["--seed", "0", "--rotation", "quarot"],
    "gamma-sqp, seed 1": ["--seed", "1"],
    "quarot, seed 1": ["--seed", "1", "--rotation", "quarot"],
    "gamma-sqp, seed 3": ["--seed", "3"],
    "quarot, seed 3": ["--seed", "3", "--rotation", "quarot"],
}
TEXTS = ("BoolQ", "docs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", default="4096")
    parser.add_argument("--work", type=Path, default=Path("demo-output/rotation"))
    options = parser.parse_args()
    docs = python_documentation(options.work)
    out = str(options.work / "model")
    texts: dict[str, list[str]] = {"BoolQ": [], "docs": ["--text", str(docs)]}
    floats: dict[str, float] = {}

    print("| 4-1.58 unless said | T' | BoolQ | × float | docs | × float | firing rate | weight error | bits/weight |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, extra in SETTINGS.items():
        made = run("convert", "smollm2-135m", "-o", out, "--force", *extra)
        cells = []
        for text in TEXTS:
            baseline = [] if text in floats else ["--baseline"]
            measured = run(
                "perplexity", out, *texts[text], "--window", "1024", "--max-tokens", options.max_tokens, *baseline
            )
            if baseline:
                floats[text] = measured["baseline"]["perplexity"]
            cells.append(f"{measured['perplexity']:.2f} | {measured['perplexity'] / floats[text]:.2f}")
        spikes = not name.startswith("4-16")
        rate = f"{run('report-firing-rate', out)['total']['firing_rate']:.3f}" if spikes else ""
        if name == next(iter(SETTINGS)):
            print(f"| float | | {floats['BoolQ']:.2f} | 1 | {floats['docs']:.2f} | 1 | | | |")
        print(
            f"| {name} | {made['virtual_steps']} | {' | '.join(cells)} | {rate} "
            f"| {made['mean_relative_error']:.4f} | {made['bits_per_weight']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
