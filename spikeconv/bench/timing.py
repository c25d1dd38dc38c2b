"""Medians of things that take turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["median_seconds"]

LEAST_TURNS = 5

RECORDED = 20
"""Calls in one CUDA graph."""


def median_seconds(
    candidates: Mapping[str, Callable[[], object]],
    seconds: float = 0.3,
    device: str = "cpu",
    turns: int = LEAST_TURNS,
) -> dict[str, float]:
    """Median time of each candidate: on a processor with one thread the time that it ran, so that what else a busy
    machine does is left out; else wall time.

    On a GPU a candidate is recorded into a CUDA graph many times over, so that neither Python nor the launch counts.

    Args:
        candidates: what to run, by name.
        seconds: about how long to measure each.
        device: where they run.
        turns: that each has at least.
    """
    if torch.device(device).type == "cuda":
        recorded = {name: _recorded(run) for name, run in candidates.items()}
        return {name: taken / RECORDED for name, taken in median_seconds(recorded, seconds).items()}
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():  # buffers, caches, code
        run()
    start = time.perf_counter()
    done = 0
    while done < turns or time.perf_counter() - start < seconds * len(candidates):
        for name, run in candidates.items():
            begin = clock()
            run()
            times[name].append(clock() - begin)
        done += 1
    return {name: statistics.median(values) for name, values in times.items()}


def _recorded(run: Callable[[], object]) -> Callable[[], None]:
    run()  # what is set up at the first call must not be recorded
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(RECORDED):
            run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay
