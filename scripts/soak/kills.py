"""Conversions that are killed: at every file-system operation, at random moments, and on the real model.

    PYTHONPATH=tests python scripts/soak/kills.py                # all of it, about ten minutes
    PYTHONPATH=tests python scripts/soak/kills.py --random 500 --real 0

After each kill the output must be what it was or what it will be, and the same command must go on to the bytes of a
conversion that nothing stopped, and leave nothing else.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from killing import KILLED, operations, run_killed
from tiny_models import save_model

from spikeconv.checkpoint.format import RECORD
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.sources.hf import HfSource

SHARD = 20_000


def contents(path: Path) -> dict[str, bytes]:
    """Every file; of the record, all but its time stamp."""
    found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    if RECORD in found:
        record = json.loads(found[RECORD])
        del record["created"], record["command"]
        found[RECORD] = json.dumps(record).encode()
    return found


def run(source: Path, output: Path, bits: str = "4-1.58") -> None:
    opened = HfSource(source)
    writing = Writing(shard_bytes=SHARD, force=True)
    convert(opened, make_plan(opened, SpikeConfig.parse({"bits": bits})), output, command="soak", writing=writing)


def expect(good: bool, what: str) -> None:
    if not good:
        raise SystemExit(f"FAILED: {what}")


class Place:
    """A folder with a source, what is to come of it, and outputs in the states that a conversion can meet."""

    def __init__(self, base: Path) -> None:
        self.base, self.source = base, base / "source"
        save_model("qwen2", {}, self.source)
        run(self.source, base / "whole" / "out")
        run(self.source, base / "old" / "out", bits="6-1.58")
        self.whole, self.old = contents(base / "whole" / "out"), contents(base / "old" / "out")

    def prepared(self, state: str, name: str) -> Path:
        """`out` in a folder of its own: fresh, force (an old checkpoint is there) or resumed (a scratch folder is)."""
        folder = self.base / name
        shutil.rmtree(folder, ignore_errors=True)
        if state == "force":
            shutil.copytree(self.base / "old", folder)
        else:
            folder.mkdir()
        if state == "resumed":
            killed = run_killed(lambda: run(self.source, folder / "out"), 60, False)
            expect(killed == KILLED and not (folder / "out").exists(), "nothing to resume from")
        return folder / "out"

    def check(self, output: Path, what: str) -> None:
        """After a kill: the old one, none or the new one; then the same command makes it whole."""
        found = contents(output) if output.exists() else {}
        expect(found in ({}, self.old, self.whole), f"{what}: something else than the old or the new checkpoint")
        run(self.source, output)
        expect(contents(output) == self.whole, f"{what}: other bytes")
        left = [path.name for path in output.parent.iterdir() if path.name != "out"]
        expect(not left, f"{what}: left {left}")


def every_operation(place: Place) -> None:
    for state in ("fresh", "force", "resumed"):
        counted = place.prepared(state, "counted")
        total = operations(lambda: run(place.source, counted))  # noqa: B023
        for fatal in range(1, total + 1):
            for after in (False, True):
                output = place.prepared(state, "killed")
                ended = run_killed(lambda: run(place.source, output), fatal, after)  # noqa: B023
                expect(ended == KILLED, f"{state} {fatal}: not killed ({ended})")
                place.check(output, f"{state}, {'after' if after else 'before'} operation {fatal}")
        print(f"{state}: killed before and after each of {total} operations, whole each time", flush=True)


def at_random(place: Place, times: int) -> None:
    chance, kills, conversions = random.Random(0), 0, 0
    start = time.perf_counter()
    run(place.source, place.prepared("fresh", "timed"))
    seconds = time.perf_counter() - start
    while kills < times:
        output = place.prepared(chance.choice(("fresh", "force")), "random")
        conversions += 1
        for _ in range(chance.randrange(1, 6)):  # stopped so often before it may end
            child = os.fork()
            if child == 0:
                run(place.source, output)
                os._exit(0)
            time.sleep(chance.random() * seconds * 1.2)
            os.kill(child, signal.SIGKILL)
            kills += os.waitpid(child, 0)[1] == signal.SIGKILL
        place.check(output, f"random kill {kills}")
    print(f"{kills} kills at random moments of {conversions} conversions, whole each time", flush=True)


def real_model(base: Path, times: int) -> None:
    command = [sys.executable, "-m", "spikeconv", "convert", "smollm2-135m", "--max-shard-size", "20MB", "-q", "-o"]
    start = time.perf_counter()
    subprocess.run([*command, str(base / "real")], check=True, stdout=subprocess.DEVNULL)
    seconds, whole = time.perf_counter() - start, contents(base / "real")
    chance, kills = random.Random(1), 0
    shutil.rmtree(base / "real")
    while kills < times:
        process = subprocess.Popen([*command, str(base / "real")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        process.kill()
        kills += process.wait() == KILLED
        if (base / "real").exists():
            expect(contents(base / "real") == whole, "the real model: other bytes")
            shutil.rmtree(base / "real")
    subprocess.run([*command, str(base / "real")], check=True, stdout=subprocess.DEVNULL)
    expect(contents(base / "real") == whole, "the real model: other bytes")
    print(f"smollm2-135m: {kills} kills at random moments, the same bytes in the end", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=150, help="kills at random moments")
    parser.add_argument("--real", type=int, default=6, help="kills on the real model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a child that was forked has no threads
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        place = Place(Path(name))
        every_operation(place)
        at_random(place, arguments.random)
        if arguments.real:
            real_model(Path(name), arguments.real)


if __name__ == "__main__":
    main()
