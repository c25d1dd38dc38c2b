#!/usr/bin/env python
"""SpikeLM on a real encoder: what training through spikes leaves of a classifier's accuracy.

Each row is what `spikeconv finetune` (from the float model that was fine-tuned on the same texts), `convert
--as-trained`, `eval` on the test split and `report-firing-rate` give. Finished rows are kept in FOLDER and not run
again. GLUE's public validation rows are split once (`spikeconv/data/splits.json`): these are small sets, and the
numbers say so with their standard errors.

    python scripts/bench/spikelm.py FOLDER                      # all rows, three tasks, three seeds: hours on two cores
    python scripts/bench/spikelm.py FOLDER --tables             # only print what is there
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from spikeconv.calibrate.training_record import TrainingRecord
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.conversion.writing import Writing
from spikeconv.data.sample import sample_text
from spikeconv.evaluate.classification import classify_tasks
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.loading import LoadedModel
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import firing_report
from spikeconv.sources.float_model import load_float
from spikeconv.sources.resolve import open_source

STEPS = {"sst2": 60, "mrpc": 50, "rte": 40}
SEEDS = (0, 1, 2)
FLOAT = ("--learning-rate", "5e-5", "--batch-size", "16")
SPIKES = ("--learning-rate", "1e-4", "--batch-size", "8")
TRAINING = ("--save-every", "100000", "--log-every", "20", "--quiet")


class Row(NamedTuple):
    """A way to train: options of `finetune`, and whether it has rows of every task."""

    options: tuple[str, ...]
    everywhere: bool = True


ELASTIC = ("--codec", "elastic", "--time-steps")
ROWS = {
    "LIF, T=4": Row(("--codec", "lif", "--time-steps", "4")),
    "elastic, T=1, no distillation": Row((*ELASTIC, "1", "--no-distill")),
    "elastic, T=1": Row((*ELASTIC, "1")),
    "elastic, T=4, no distillation": Row((*ELASTIC, "4", "--no-distill")),
    "elastic, T=4": Row((*ELASTIC, "4")),
    "elastic, T=1, 1-bit weights": Row((*ELASTIC, "1", "--bits", "1-1.58"), False),
    "elastic, T=1, ternary weights": Row((*ELASTIC, "1", "--bits", "1.58-1.58"), False),
    "elastic, T=4, normalised reset": Row((*ELASTIC, "4", "--set", "reset=normalised"), False),
    "LIF, T=4, arctan": Row(("--codec", "lif", "--time-steps", "4", "--set", "inputs.gradient=arctan"), False),
    "LIF, T=4, + bidirectional": Row((*ELASTIC, "4", "--set", "alpha=one"), False),
    "LIF, T=4, + frequency and amplitude": Row((*ELASTIC, "4", "--set", "inputs.spikes=binary"), False),
    "elastic, T=4, learned α": Row((*ELASTIC, "4", "--set", "alpha=learned"), False),
    "elastic, T=4, k=3": Row((*ELASTIC, "4", "--set", "k=3"), False),
    "elastic, T=4, k=4": Row((*ELASTIC, "4", "--set", "k=4"), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    if not arguments.tables:
        for everywhere in (True, False):
            for seed in SEEDS[: arguments.seeds]:
                for task in STEPS if everywhere else ("sst2",):
                    run(arguments.folder, task, seed, everywhere)
    print_tables(arguments.folder)


def run(folder: Path, task: str, seed: int, everywhere: bool) -> None:
    """All rows of a task and a seed that are not there."""
    home = folder / f"{task}-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    trained, given = home / "float", ("--task", task, "--steps", str(STEPS[task]), "--seed", str(seed), *TRAINING)
    if not (home / "float.json").is_file():
        finetune("minilm-l6", *given, *FLOAT, "-o", str(trained), "--force")
        (home / "float.json").write_text(json.dumps({"accuracy": accuracy(load_float(trained, device="cpu"), task)}))
    whole = json.loads((home / "float.json").read_text())["accuracy"]
    for name, row in ROWS.items():
        result, student, spiking = home / f"{name}.json", home / "student", home / "spiking"
        if row.everywhere != everywhere or result.is_file():
            continue
        finetune(str(trained), *given, *SPIKES, *row.options, "-o", str(student), "--force")
        record, source = TrainingRecord.read(student), open_source(student)
        plan = plan_conversion(source, record.settings(), trained=record)
        convert(source, plan, spiking, command="", writing=Writing(force=True))
        loaded = load_checkpoint(spiking, device="cpu")
        rate = firing_report(record_text(loaded.model, loaded.tokenizer, sample_text(), tokens=512)).total
        found = {"accuracy": accuracy(loaded, task), "rate": rate.firing_rate, "spikes": rate.spikes_per_input}
        result.write_text(json.dumps(found, indent=1))
        print(f"{task} {seed} {name}: {whole:.3f} -> {found['accuracy']:.3f}, rate {found['rate']:.3f}", flush=True)


def accuracy(loaded: LoadedModel, task: str) -> float:
    """On the test split."""
    return classify_tasks(loaded, [task]).tasks[0].value


def finetune(*arguments: str) -> None:
    """Run the command."""
    done = subprocess.run([sys.executable, "-m", "spikeconv", "finetune", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"spikeconv finetune {' '.join(arguments)}\n{done.stderr}")


def print_tables(folder: Path) -> None:
    """Mean accuracy over the seeds, in percent, with their standard deviation; the firing rate."""
    print("| | " + " | ".join(STEPS) + " | firing rate |\n|---|" + "---|" * (len(STEPS) + 1))
    for name in ("float", *ROWS):
        found = {task: list(results(folder, task, name)) for task in STEPS}
        cells = [shown([each["accuracy"] for each in found[task]]) for task in STEPS]
        rates = [each["rate"] for task in STEPS for each in found[task] if "rate" in each]
        if any(found.values()):
            print(f"| {name} | {' | '.join(cells)} | {f'{statistics.mean(rates):.3f}' if rates else ''} |")


def results(folder: Path, task: str, name: str) -> Iterator[dict]:
    for seed in SEEDS:
        path = folder / f"{task}-{seed}" / f"{name}.json"
        if path.is_file():
            yield json.loads(path.read_text())


def shown(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
