"""Reproduces docs/benchmarks/codecs.md: what each codec costs on the embedded real model, and how many spikes it sends.

Usage: python scripts/bench/codecs.py [--max-tokens 2048] [--work FOLDER]

Every number comes from the commands that a user runs; they are shown on stderr as they are run.
"""

import argparse
from pathlib import Path

from commands import event_cells, python_documentation, run

MULTIHEAD = ("--codec", "multihead")
REPETITION = ("--codec", "repetition", "--time-steps")
SETTINGS: dict[str, tuple[str, ...]] = {
    **{f"multihead, {layers}L": (*MULTIHEAD, "--layers", str(layers)) for layers in (3, 4, 5, 6)},
    "multihead, 6L, 4 integer digits": ("--codec", "multihead", "--integer-digits", "4", "--layers", "6"),
    "multihead, 4L, T=2": (*MULTIHEAD, "--layers", "4", "--time-steps", "2"),
    **{f"repetition, T={steps}": (*REPETITION, str(steps)) for steps in (3, 4, 8, 16)},
    "repetition, T=8, 99 % quantile": (*REPETITION, "8", "--set", "inputs.threshold_quantile=0.99"),
    "count, 16-1.58 (γ-SQP)": ("--bits", "16-1.58"),
    "count, 4-1.58 (γ-SQP, the default)": (),
    "multihead, 4L, 4-bit weights, γ-SQP": (*MULTIHEAD, "--layers", "4", "--bits", "4-1.58", "--rotation", "gamma-sqp"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", default="2048")
    parser.add_argument("--work", type=Path, default=Path("demo-output/codecs"))
    options = parser.parse_args()
    text = ("--text", str(python_documentation(options.work)), "--window", "1024", "--max-tokens", options.max_tokens)
    out = str(options.work / "model")
    print("| codec | perplexity | × float | graded | ones | unary | EE graded | EE ones | EE unary |")
    print("|---|---|---|---|---|---|---|---|---|")
    baseline = 0.0
    for name, extra in SETTINGS.items():
        run("convert", "smollm2-135m", "-o", out, "--force", *extra)
        measured = run("perplexity", out, *text, *([] if baseline else ["--baseline"]))
        if not baseline:
            baseline = measured["baseline"]["perplexity"]
            print(f"| float | {baseline:.2f} | 1 | | | | | | |")
        cells = event_cells(run("report-firing-rate", out)["layers"])
        ratio = measured["perplexity"] / baseline
        print(f"| {name} | {measured['perplexity']:.2f} | {ratio:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
