"""Reproduces docs/benchmarks/attention.md: what spiking keys and values cost, alone and on top of spiking linears.

Usage: python scripts/bench/attention.py [--max-tokens 4096] [--work FOLDER] [--only TEXT]

Every number comes from the commands that a user runs; they are shown on stderr as they are run. `--only` runs the rows
whose name contains TEXT. The default seed is 2. The text is the documentation that ships with Python.
"""

import argparse
from pathlib import Path

from commands import python_documentation, run

FLOAT = ["--bits", "16-16", "--rotation", "none"]
KV4 = ["--kv-bits", "4"]
ATTENTION_LEFT = ["--skip", "gate", "--skip", "up", "--skip", "down"]
QKV_LEFT = ["--skip", "o", *ATTENTION_LEFT]
ALONE = {
    "4 bits": KV4,
    "4 bits, asymmetric": [*KV4, "--kv-range", "asymmetric"],
    "5 bits": ["--kv-bits", "5"],
    "6 bits": ["--kv-bits", "6"],
}
SETTINGS = {
    **{f"alone, {name}, seed {seed}": [*FLOAT, *kv, "--seed", seed] for name, kv in ALONE.items() for seed in "0123"},
    "alone, 8 bits": [*FLOAT, "--kv-bits", "8"],
    "4-1.58": [],
    "4-1.58 + 4 bits": KV4,
    "4-1.58 + 6 bits": ["--kv-bits", "6"],
    "QuaRot, QKV": ["--rotation", "quarot", *QKV_LEFT],
    "QuaRot, QKV+Att": ["--rotation", "quarot", *ATTENTION_LEFT, *KV4],
    "QuaRot, QKV+Att+FFN": ["--rotation", "quarot", *KV4],
    "γ-SQP, QKV": QKV_LEFT,
    "γ-SQP, QKV+Att": [*ATTENTION_LEFT, *KV4],
    "γ-SQP, QKV+Att+FFN": KV4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", default="4096")
    parser.add_argument("--work", type=Path, default=Path("demo-output/attention"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    text, out = str(python_documentation(options.work)), str(options.work / "model")
    measured_on = ["--text", text, "--window", "1024", "--max-tokens", options.max_tokens]
    baseline = None
    print("| keys and values | perplexity | × float | rate of keys | of values | bytes/token | bfloat16 |")
    print("|---|---|---|---|---|---|---|")
    for name, settings in SETTINGS.items():
        if options.only not in name:
            continue
        run("convert", "smollm2-135m", "-o", out, "--force", *settings)
        found = run("perplexity", out, *measured_on, *([] if baseline else ["--baseline"]))
        if baseline is None:
            baseline = found["baseline"]["perplexity"]
            print(f"| float | {baseline:.3f} | 1 | | | | |")
        cells = ["", "", "", ""]
        if "--kv-bits" in settings:
            cache = run("report-firing-rate", out)["cache"]
            cells = [f"{cache[kind]['firing_rate']:.3f}" for kind in "kv"]
            cells += [str(sum(cache[kind][field] for kind in "kv")) for field in FIELDS]
        value = found["perplexity"]
        print(f"| {name} | {value:.3f} | {value / baseline:.4f} | {' | '.join(cells)} |", flush=True)


FIELDS = ("bytes_per_token", "bfloat16_bytes_per_token")


if __name__ == "__main__":
    main()
