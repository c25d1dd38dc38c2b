"""All tensors of a converted checkpoint, unit by unit: in any order on several threads, or layer by layer where weights
are rounded for the inputs that the converted network gives them.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from spikeconv.calibrate.importance import token_importance
from spikeconv.calibrate.sequential import Sequential
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.work import Unit, Work
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
    recall: Recall = lambda unit: {},
    done: frozenset[str] = frozenset(),
    jobs: int = 1,
    track: Track = silent,
) -> None:
    """Make the tensors of a converted checkpoint.

    Args:
        source: where weights come from, in the basis of the conversion (`Plan.balanced`).
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None keeps each as it is.
        take: gets them.
        recall: gives those of the `done` units where the converted network needs them.
        done: units that are not made again.
        jobs: threads.
        track: progress display.

    Raises:
        SpikeconvError: a weight is not finite, or a threshold or the factors of a balance are missing.
    """
    for job in plan.jobs:
        if job.scheme.clip is not None and job.threshold is None:
            raise SpikeconvError(f"The input of {job.linear.name} is clipped, but its threshold was not calibrated.")
    work, units = Work(source, plan, dtype), list(output_specs(source, plan, dtype))
    if plan.calibrates:
        later = {f"{job.linear.name}.weight" for job in plan.jobs}
        _in_any_order(work, [unit for unit in units if unit not in later | done], take, jobs, silent)
        _layer_by_layer(source, plan, work, take, recall, done, track)
    else:
        _in_any_order(work, [unit for unit in units if unit not in done], take, jobs, track)


def _in_any_order(work: Work, units: list[str], take: Take, jobs: int, track: Track) -> None:
    if jobs == 1:
        for unit in track(units, "converting", len(units)):
            take(unit, work.process(unit))
        return
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="convert")
    try:
        futures = [pool.submit(lambda unit: take(unit, work.process(unit)), unit) for unit in units]
        for future in track(futures, "converting", len(units)):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


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
    networks = Sequential(plan.family, config, plan.config, work.loaded, windows, importance)
    known = {unit.removesuffix(".weight") for unit in done}
    for _ in track(networks.convert(convert, known), "calibrating and converting", networks.groups):
        pass
