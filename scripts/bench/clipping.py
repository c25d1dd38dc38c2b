"""Reproduces docs/benchmarks/clipping.md: rates and perplexities of membrane clipping, before and after fine-tuning.

Usage: python scripts/bench/clipping.py [--steps 200] [--max-tokens 4096] [--work FOLDER] [--only TEXT]

Every number comes from the commands that a user runs; they are shown on stderr as they are run. A fine-tune that is
there already is used. `--only` runs the rows whose name contains TEXT. Training reads BoolQ's passages from character
300,000 on; perplexities are on the first passages and on the documentation that ships with Python.
"""

import argparse
from pathlib import Path

from commands import python_documentation, run

from spikeconv.data.offline import boolq_passages

HELD_OUT = 300_000
TRAINING = ["--window", "256", "--batch-size", "2", "--learning-rate", "1e-4", "--refit-tokens", "8192"]
QUANTILES = ("0.5", "0.6")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="200")
    parser.add_argument("--max-tokens", default="4096")
    parser.add_argument("--work", type=Path, default=Path("demo-output/clipping"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    docs = str(python_documentation(options.work))
    train = options.work / "train.txt"
    passages = boolq_passages()
    train.write_text(passages[passages.index("\n\n", HELD_OUT) + 2 :], encoding="utf-8")

    print("| clipping | float: docs | BoolQ | 4-1.58: docs | BoolQ | rate of q, k, v | of all |")
    print("|---|---|---|---|---|---|---|")
    for name, source in rows(options.work, train, options.steps).items():
        if options.only not in name:
            continue
        made = source()
        cells = []
        for bits in ("16-16", "4-1.58"):
            out = str(options.work / "model")
            run("convert", *made, "--bits", bits, "-o", out, "--force")
            for text in (["--text", docs], []):
                found = run("perplexity", out, *text, "--window", "1024", "--max-tokens", options.max_tokens)
                cells.append(f"{found['perplexity']:.2f}")
        report = run("report-firing-rate", out)
        cells += [f"{report['roles']['q']['firing_rate']:.3f}", f"{report['total']['firing_rate']:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def rows(work: Path, train: Path, steps: str) -> dict:
    """By name, what makes a model and says how to convert it."""

    def tuned(quantile: str, mode: str, steps: str) -> list[str]:
        out = work / f"{mode}-{quantile}-{steps}"
        if not out.exists():
            clip = ["--clip-quantile", quantile, "--clip-mode", mode]
            run("finetune", "--text", str(train), "-o", str(out), "--steps", steps, *clip, *TRAINING)
        return ["--clip-from", str(out)]

    result = {"none": lambda: ["smollm2-135m"]}
    for q in QUANTILES:
        clip = ["--clip-quantile", q, "--clip-text", str(train)]
        result[f"relu, q = {q}, post hoc"] = lambda clip=clip: ["smollm2-135m", *clip]
        result[f"relu, q = {q}, refitted"] = lambda q=q: tuned(q, "relu", "0")
        result[f"relu, q = {q}, {steps} steps"] = lambda q=q: tuned(q, "relu", steps)
        for mode in ("shifted", "two-sided"):
            result[f"{mode}, q = {q}, refitted"] = lambda q=q, mode=mode: tuned(q, mode, "0")
    result[f"shifted, q = 0.6, {steps} steps"] = lambda: tuned("0.6", "shifted", steps)
    return result


if __name__ == "__main__":
    main()
