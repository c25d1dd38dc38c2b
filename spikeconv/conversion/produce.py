"""All tensors of a converted checkpoint, unit by unit: in any order on several threads, or layer by layer where weights
are rounded for the inputs that the converted network gives them.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from spikeconv.calibrate.importance import token_importance
from spikeconv.calibrate.sequential import Sequential
from spikeconv.conversion.demand import working_bytes
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.work import Unit, Work
from spikeconv.conversion.writing import CPU
from spikeconv.errors import SpikeconvError
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config
from spikeconv.weights import Statistics

__all__ = ["Recall", "Take", "produce"]

Take = Callable[[str, Unit], None]
"""Called for every unit with its name, from any thread."""
Recall = Callable[[str], Mapping[str, Tensor]]
"""The tensors of a unit that was taken before."""


def produce(
    source: Source,
    plan: Plan,
    dtype: torch.dtype | None,
    take: Take,
    *,
    units: Sequence[str] | None = None,
    claim: Callable[[str], bool] = lambda unit: True,
    recall: Recall = lambda unit: {},
    done: frozenset[str] = frozenset(),
    jobs: int = 1,
    device: torch.device = CPU,
    room: int | None = None,
    track: Track = silent,
) -> None:
    """Make the tensors of a converted checkpoint.

    Args:
        source: where weights come from, in the basis of the conversion (`Plan.balanced`).
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None keeps each as it is.
        take: gets them.
        units: to make, in this order; None: all.
        claim: asked, from any thread, before a unit is made: whether it is this process that makes it.
        recall: gives those of the `done` units where the converted network needs them.
        done: units that are not made again.
        jobs: threads.
        device: that rotates and rounds.
        room: bytes that all units have together that are made at once, each of which has enough; None: no limit.
        track: progress display.

    Raises:
        SpikeconvError: a weight is not finite, or a threshold or the factors of a balance are missing.
    """
    for job in plan.jobs:
        if job.scheme.clip is not None and job.threshold is None:
            raise SpikeconvError(f"The input of {job.linear.name} is clipped, but its threshold was not calibrated.")
    if plan.selects and plan.salient is None:
        raise SpikeconvError("Salient channels need a calibration text, and none was read.")
    specs = output_specs(source, plan, dtype)
    work, units = Work(source, plan, dtype, device), list(specs) if units is None else units

    def make(unit: str) -> None:
        if claim(unit):
            take(unit, work.process(unit))

    limited = make if room is None else _Room(room, working_bytes(source, plan, specs)).within(make)
    if plan.calibrates:
        later = {f"{job.linear.name}.weight" for job in plan.jobs}
        _in_any_order(limited, [unit for unit in units if unit not in later | done], jobs, silent)
        _layer_by_layer(source, plan, work, take, recall, done, track)
    else:
        _in_any_order(limited, [unit for unit in units if unit not in done], jobs, track)


def _in_any_order(make: Callable[[str], None], units: list[str], jobs: int, track: Track) -> None:
    if jobs == 1:
        for unit in track(units, "converting", len(units)):
            make(unit)
        return
    threads = torch.get_num_threads()
    # One thread of torch's for each of ours: more would only wait for each other.
    pool = ThreadPoolExecutor(jobs, "convert", torch.set_num_threads, (1,))
    try:
        futures = [pool.submit(make, unit) for unit in units]
        for future in track(futures, "converting", len(units)):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class _Room:
    """Lets units be made at once only as far as they have room together."""

    def __init__(self, size: int, needs: Mapping[str, int]) -> None:
        self._free, self._needs = size, needs
        self._changed = threading.Condition()

    def within(self, make: Callable[[str], None]) -> Callable[[str], None]:
        def waiting(unit: str) -> None:
            with self._changed:
                self._changed.wait_for(lambda: self._needs[unit] <= self._free)
                self._free -= self._needs[unit]
            try:
                make(unit)
            finally:
                with self._changed:
                    self._free += self._needs[unit]
                    self._changed.notify_all()

        return waiting


def _layer_by_layer(
    source: Source, plan: Plan, work: Work, take: Take, recall: Recall, done: frozenset[str], track: Track
) -> None:
    if plan.calibration is None:
        method = next(job.scheme.weights.method for job in plan.jobs if job.scheme.weights.is_calibrated)
        raise SpikeconvError(f"weights={method} needs a calibration text, and none was read.")

    def convert(module: str, statistics: Statistics | None) -> dict[str, Tensor]:
        unit = f"{module}.weight"
        if unit in done:
            tensors = recall(unit)
        else:
            made = work.process(unit, statistics)
            take(unit, made)
            tensors = made.tensors
        return {name.removeprefix(f"{module}."): tensor for name, tensor in tensors.items()}

    config = hf_config(source.config)
    windows = plan.calibration.windows
    groups = {job.linear.group for job in plan.jobs if job.scheme.weights.importance == "gradient"}
    importance = token_importance(source, plan.layout, groups, windows, track=track) if groups else None
    networks = Sequential(plan.family, config, plan.config, work.loaded, windows, importance, plan.salient)
    known = {unit.removesuffix(".weight") for unit in done}
    for _ in track(networks.convert(convert, known), "calibrating and converting", networks.groups):
        pass
