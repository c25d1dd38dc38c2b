"""Medians of things that take turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["median_seconds"]

LEAST_TURNS = 5


def median_seconds(candidates: Mapping[str, Callable[[], object]], seconds: float = 0.3) -> dict[str, float]:
    """Median wall time of each candidate.

    Args:
        candidates: what to run, by name.
        seconds: about how long to measure each (at least five turns).
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():  # buffers, caches, code
        run()
    start = time.perf_counter()
    turns = 0
    while turns < LEAST_TURNS or time.perf_counter() - start < seconds * len(candidates):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
        turns += 1
    return {name: statistics.median(values) for name, values in times.items()}
