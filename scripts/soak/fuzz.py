"""Mutated inputs of every kind that spikeconv reads: each must work or be refused in one sentence.

    PYTHONPATH=tests python scripts/soak/fuzz.py --cases 50000                    # all kinds, in turn
    PYTHONPATH=tests python scripts/soak/fuzz.py --kind gguf --first 1234 --cases 1

A case is a failure if anything but `SpikeconvError` comes out of it, if it takes more than `--seconds`, if it opens a
file that is neither its own nor the installation's, if it starts a process, reaches for the network or runs code of its
input, or if it makes the process grow by more than `--grow` MB. Cases follow from their number alone, so that each can
be run again; inputs of failures are kept in `--keep`.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from kinds import CANARY, Kinds, stop_halfway

from spikeconv import ops
from spikeconv.cache import cache_dir
from spikeconv.errors import SpikeconvError

FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "ctypes.dlopen")


class Late(BaseException):
    """The case takes too long."""


class Watch:
    """Notes what a case does that it must not."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.found: list[str] = []
        self.on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.found.append(f"{event} {arguments[:2]!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self.allowed):
                self.found.append(f"open {path}"[:200])


def run_case(kinds: Kinds, kind: str, number: int, watch: Watch, arguments: argparse.Namespace) -> str | None:
    """What went wrong in a case, or None."""
    chance = random.Random(f"{kind} {number}")
    with tempfile.TemporaryDirectory(dir=kinds.base, prefix="case-") as name:
        folder, found = Path(name), None
        mine = (os.path.realpath(folder), os.path.realpath(kinds.base))
        watch.allowed, watch.found = (*mine, *ALWAYS), []
        signal.alarm(arguments.seconds)
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                watch.on = True
                getattr(kinds, kind)(chance, folder)
        except SpikeconvError as error:
            if "\n" in str(error).strip():
                found = f"a message of several lines: {error!r}"[:300]
        except Late:
            found = f"more than {arguments.seconds} s"
        except BaseException as error:
            found = f"{type(error).__name__}: {str(error).splitlines()[:1]} at {_place(error)}"[:300]
        finally:
            watch.on = False
            signal.alarm(0)
        if (folder / CANARY).exists():
            found = "code of the input ran"
        if watch.found:
            found = "; ".join(sorted(set(watch.found)))[:300]
        if found and arguments.keep:
            kept = arguments.keep / f"{kind}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=lambda *_: [CANARY])
        return found


def _place(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "spikeconv" in frame.filename and "site-packages" not in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


INSTALLED = (
    sys.prefix,
    sys.base_prefix,
    Path(ops.__file__).parents[2],
    cache_dir(),
    "/proc",
    "/sys",
    "/dev/null",
    "/usr",
)
ALWAYS = tuple(map(os.path.realpath, INSTALLED))


def work(kinds: Kinds, jobs: Any, results: Any, arguments: argparse.Namespace) -> None:
    """Cases from a queue, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def late(*_: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    for kind in kinds.names():  # what is imported at first use
        run_case(kinds, kind, -1, watch, argparse.Namespace(**{**vars(arguments), "keep": None, "seconds": 60}))
    for kind, number in iter(jobs.get, None):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = run_case(kinds, kind, number, watch, arguments)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if found is None and grown > arguments.grow:
            found = f"grew by {grown:.0f} MB"
        results.put((kind, number, found))
    results.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", action="append", help="only these")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=20, help="for one case")
    parser.add_argument("--grow", type=float, default=300, help="MB that a case may add to the process")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of failures")
    arguments = parser.parse_args()
    start, failures, counts = time.perf_counter(), Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        kinds = Kinds(Path(base))
        stop_halfway(kinds)
        chosen = arguments.kind or kinds.names()
        context = multiprocessing.get_context("fork")
        jobs, results = context.Queue(100), context.Queue()
        workers = [context.Process(target=work, args=(kinds, jobs, results, arguments)) for _ in range(arguments.jobs)]
        for worker in workers:
            worker.start()
        examples: dict[str, tuple[str, int]] = {}

        def take(result: Any) -> None:
            kind, number, found = result
            counts[kind] += 1
            if found is not None:
                failures[f"{kind}: {found}"] += 1
                examples.setdefault(f"{kind}: {found}", (kind, number))

        left = 0
        for index in range(arguments.cases):
            jobs.put((chosen[index % len(chosen)], arguments.first + index // len(chosen)))
            left += 1
            while not results.empty():
                take(results.get())
                left -= 1
            if not any(worker.is_alive() for worker in workers):
                raise SystemExit("the workers died: a case killed the process")
        for _ in workers:
            jobs.put(None)
        while left:
            if not any(worker.is_alive() for worker in workers) and results.empty():
                raise SystemExit(f"{left} cases never ended: one killed its process")
            result = results.get()
            if result is not None:
                take(result)
                left -= 1
        for worker in workers:
            worker.join()
    print(f"{sum(counts.values())} cases in {time.perf_counter() - start:.0f} s: {dict(counts)}")
    for what, count in failures.most_common():
        kind, number = examples[what]
        print(f"FAILED {count} times, first --kind {kind} --first {number} --cases 1: {what}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
