"""Reproduces docs/benchmarks/rwkv.md: SpikeRWKV's ablation on the two RWKV models of this repository.

Usage: python scripts/bench/rwkv.py [--max-tokens 65536] [--tasks 20] [--work FOLDER]

Every number comes from the commands that a user runs; they are shown on stderr as they are run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from commands import event_cells, run

ASSETS = Path(__file__).parents[2] / "tests" / "assets"
MODELS = ("rwkv4-brown", "rwkv6-brown")
HELD_OUT = ASSETS / "brown-held-out.txt"
REPETITION, MULTIHEAD = ("--codec", "repetition", "--time-steps"), ("--codec", "multihead", "--layers")
ROWS: dict[str, tuple[str, ...]] = {
    "SNN-RWKV-3": (*REPETITION, "3"),
    "SNN-RWKV-4": (*REPETITION, "4"),
    **{f"SpikeRWKV-{n}L, 1 integer digit": (*MULTIHEAD, n, "--integer-digits", "1") for n in "345"},
    **{f"SpikeRWKV-{n}L": (*MULTIHEAD, n) for n in "3456"},
    "γ-SQP 4-1.58": (),
    "γ-SQP 4-1.58, T'=16": ("--steps", "16"),
    "γ-SQP 4-1.58, ffn.value as the others": ("--override", "ffn.value:inputs.spikes=ternary,rotation=gamma-sqp"),
}
SCORED = ("SpikeRWKV-3L", "SpikeRWKV-5L", "γ-SQP 4-1.58")
TASKS = ("arc_easy", "arc_challenge", "copa", "piqa", "winogrande")


def ablation(model: str, out: str, max_tokens: str) -> None:
    """The table of one model."""
    text = ("--text", str(HELD_OUT), "--window", "1024", "--max-tokens", max_tokens)
    print(f"\n### {model}\n")
    print(
        "| model | perplexity | × float | bits per character | graded | bits | unary | EE graded | EE bits | EE unary |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    baseline = 0.0
    for name, extra in ROWS.items():
        run("convert", str(ASSETS / model), "-o", out, "--force", *extra)
        measured = run("perplexity", out, *text, *([] if baseline else ["--baseline"]))
        if not baseline:
            baseline = measured["baseline"]["perplexity"]
            print(f"| float | {baseline:.4f} | 1 | {measured['baseline']['bits_per_byte']:.4f} | | | | | | |")
        cells = event_cells(run("report-firing-rate", out, "--text", str(HELD_OUT), "--tokens", "4096")["layers"])
        found = measured["perplexity"]
        quality = f"{found:.4f} | {found / baseline:.4f} | {measured['bits_per_byte']:.4f}"
        print(f"| {name} | {quality} | {' | '.join(cells)} |", flush=True)


def scores(model: str, out: str, limit: str) -> None:
    """Five-shot accuracies, in per cent."""
    print(f"\n### {model}, 5-shot, the first {limit} questions\n")
    print(f"| model | {' | '.join(TASKS)} |")
    print("|---" * (1 + len(TASKS)) + "|")
    for name in SCORED:
        run("convert", str(ASSETS / model), "-o", out, "--force", *ROWS[name])
        options = ("--tasks", ",".join(TASKS), "--num-fewshot", "5", "--limit", limit, "--data", "offline")
        first = name == SCORED[0]
        measured = run("eval", out, *options, *(["--baseline"] if first else []))
        for title, part in (("float", measured.get("baseline")), (name, measured)):
            if part:
                cells = (f"{100 * task['value']:.1f} ± {100 * task['stderr']:.1f}" for task in part["tasks"].values())
                print(f"| {title} | {' | '.join(cells)} |", flush=True)


GENERATE = """
import re
from spikeconv.cli.app import main
try:
    main()
finally:
    print(*re.findall(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read()))
"""


def memory(model: str, out: str) -> None:
    """Peak memory of `spikeconv generate` for a short and for a long text, each in a process of its own."""
    run("convert", str(ASSETS / model), "-o", out, "--force")
    for tokens in ("100", "10000"):
        command = ("generate", out, "-p", "The jury said", "-n", tokens, "--json", "--quiet")
        print("$ spikeconv", *command, file=sys.stderr)
        arguments = [sys.executable, "-c", GENERATE, *command]
        answer = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        text, _, peak = answer.strip().rpartition("\n")
        speed = json.loads(text)["tokens_per_second"]
        print(f"| {model} | {json.loads(text)['tokens']:,} | {int(peak) / 1024:.0f} | {speed:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", default="65536")
    parser.add_argument("--tasks", default="20", help="questions of each task; 0 for none")
    parser.add_argument("--work", type=Path, default=Path("demo-output/rwkv"))
    options = parser.parse_args()
    out = str(options.work / "model")
    for model in MODELS:
        ablation(model, out, options.max_tokens)
    if options.tasks != "0":
        scores(MODELS[1], out, options.tasks)  # RWKV-6, the paper's base
    print("\n### generate\n\n| model | tokens | peak memory, MiB | tokens/s |\n|---|---|---|---|")
    for model in MODELS:
        memory(model, out)


if __name__ == "__main__":
    main()
