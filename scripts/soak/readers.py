"""Readers while a checkpoint is replaced, and writers who want the same place.

    PYTHONPATH=tests python scripts/soak/readers.py              # 1,000 replacements, 100 pairs of writers

A reader opens the checkpoint again and again, hashes what it finds, and must always see one of the two checkpoints that
take turns there, whole. Of two writers one converts and the other is refused in a sentence.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tiny_models import save_model

from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.scratch import Scratch
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.sources.hf import HfSource
from spikeconv.verification.check import check_files


def digest_of(folder: Path) -> str | None:
    """Of all files in a folder; None where another folder came to its place meanwhile, and this one is going away."""
    opened = os.open(folder, os.O_RDONLY)
    found = hashlib.sha256()
    try:
        for name in sorted(os.listdir(opened)):
            file = os.open(name, os.O_RDONLY, dir_fd=opened)
            found.update(name.encode())
            with os.fdopen(file, "rb") as data:
                found.update(data.read())
    except FileNotFoundError:
        pass
    try:
        return found.hexdigest() if os.stat(folder).st_ino == os.fstat(opened).st_ino else None
    finally:
        os.close(opened)


def read_on(folder: Path, known: set[str], stop: Any, results: Any) -> None:
    """Read until told to stop; what was seen that is neither checkpoint is told."""
    seen = strange = missing = replaced = 0
    while not stop.is_set():
        try:
            found = digest_of(folder)
        except FileNotFoundError:
            missing += 1
            continue
        seen += found is not None
        replaced += found is None
        strange += found is not None and found not in known
    results.put((seen, strange, missing, replaced))


def replace(base: Path, times: int) -> None:
    save_model("llama", {}, base / "source")
    source = HfSource(base / "source")
    for name, bits in (("a", "4-1.58"), ("b", "6-1.58")):
        convert(source, make_plan(source, SpikeConfig.parse({"bits": bits})), base / name, command="soak")
    shutil.copytree(base / "a", base / "out")
    known = {str(digest_of(base / name)) for name in ("a", "b")}
    stop, results = multiprocessing.Event(), multiprocessing.Queue()
    arguments = (base / "out", known, stop, results)
    readers = [multiprocessing.Process(target=read_on, args=arguments) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(times):
        with Scratch(base / "out", RECORD, force=True) as scratch:
            shutil.copytree(base / "ba"[index % 2], scratch.scratch, dirs_exist_ok=True)
            scratch.publish()
    stop.set()
    found = [results.get() for _ in readers]
    for reader in readers:
        reader.join()
    seen, strange, missing, replaced = (sum(column) for column in zip(*found, strict=True))
    print(
        f"{times} replacements, {seen} reads of a whole checkpoint and {replaced} during which it was replaced: "
        f"{strange} of something else, {missing} of nothing",
        flush=True,
    )
    if strange or missing or not seen:
        raise SystemExit("FAILED")


def write(source: Path, output: Path, gate: Any, results: Any) -> None:
    torch.set_num_threads(1)
    opened = HfSource(source)
    plan = make_plan(opened, SpikeConfig())
    gate.wait()
    try:
        convert(opened, plan, output, command="soak", writing=Writing(force=True))
        results.put("written")
    except SpikeconvError as error:
        results.put(str(error))


def two_writers(base: Path, times: int) -> None:
    refused = both = 0
    for index in range(times):
        output = base / f"two-{index}"
        gate, results = multiprocessing.Barrier(2), multiprocessing.Queue()
        arguments = (base / "source", output, gate, results)
        writers = [multiprocessing.Process(target=write, args=arguments) for _ in range(2)]
        for writer in writers:
            writer.start()
        said = [results.get(timeout=120) for _ in writers]
        for writer in writers:
            writer.join()
        others = [text for text in said if text != "written"]
        both += not others
        refused += len(others)
        if len(others) > 1 or any("process" not in text for text in others):
            raise SystemExit(f"FAILED: {said}")
        if not check_files(output).clean or json.loads((output / RECORD).read_text())["command"] != "soak":
            raise SystemExit(f"FAILED: {output} is not whole")
        left = [path.name for path in base.iterdir() if path.name.startswith(f".two-{index}")]
        if left:
            raise SystemExit(f"FAILED: left {left}")
    print(f"{times} pairs of writers: {refused} refused, {both} one after the other, always one whole checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replacements", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=100)
    arguments = parser.parse_args()
    multiprocessing.set_start_method("fork")
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="readers-") as name:
        replace(Path(name), arguments.replacements)
        two_writers(Path(name), arguments.pairs)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
