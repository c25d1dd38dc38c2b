"""How much memory a conversion needs: of the program as it stands, and of the units that are worked on at once."""

import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from spikeconv.calibrate.streamed import BATCH_TOKENS
from spikeconv.calibrate.windows import STATISTICS_TOKENS
from spikeconv.checkpoint.layout import TensorSpec
from spikeconv.conversion.linear import BLOCK
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Job, Plan
from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source

__all__ = ["check_memory", "peak_of", "resident_bytes", "statistics_bytes", "working_bytes"]

BLOCK_COPIES = 16
"""Blocks of float32 weights that one thread has at a time: read, rotated, searched."""
WHOLE_COPIES = 3
"""Matrices in float32 beside the source's, where a weight is not converted block by block."""
ACTIVATIONS = 3
"""Copies of the widest activations that a layer of the float network has at a time."""
SOLVER_COPIES = 6
"""Matrices [in, in] float64 that calibrated weights are solved with."""


def working_bytes(source: Source, plan: Plan, units: Mapping[str, Sequence[TensorSpec]]) -> dict[str, int]:
    """The most that each unit has in memory while it is made, what is written included.

    Args:
        source: in the basis of the conversion.
        plan: what to convert and how.
        units: what will be written, by the source's tensor (`output_specs`).
    """
    jobs = {f"{job.linear.name}.weight": job for job in plan.jobs}
    balanced = plan.balanced_groups
    found = {}
    for unit, specs in units.items():
        written = sum(spec.size for spec in specs)
        if (job := jobs.get(unit)) is not None:
            found[unit] = written + _of_weight(source, job, job.linear.group in balanced)
        else:
            read = torch.Size(source.shape(unit)).numel() * itemsize(source.dtype(unit))
            found[unit] = max(read + written if specs[0].dtype != source.dtype(unit) else read, written)
    return found


def _of_weight(source: Source, job: Job, balanced: bool) -> int:
    weights = job.scheme.weights
    block = BLOCK_COPIES * 4 * max(BLOCK, job.in_features)
    if weights.is_float or weights.is_calibrated or balanced:
        whole = job.weights * (itemsize(source.dtype(f"{job.linear.name}.weight")) + 4 * WHOLE_COPIES)
        return whole + block + (8 * SOLVER_COPIES * job.in_features**2 if weights.is_calibrated else 0)
    return block


def peak_of(working: Mapping[str, int], jobs: int) -> int:
    """The most that units need which are worked on at once, in order, so many at a time."""
    sizes = list(working.values())
    return max((sum(sizes[first : first + jobs]) for first in range(len(sizes))), default=0)


def statistics_bytes(source: Source, plan: Plan) -> int:
    """What the float network needs that a balance is calibrated with: one layer, what is no layer, and activations."""
    if not plan.balanced_groups:
        return 0
    layers: Counter[int] = Counter()
    for linear in plan.layout:
        layers[linear.layer] += torch.Size(source.shape(f"{linear.name}.weight")).numel()
    rest = sum(torch.Size(source.shape(name)).numel() for name in source.names()) - sum(layers.values())
    widest = max(sum(source.shape(f"{linear.name}.weight")) for linear in plan.layout)
    return 4 * (rest + max(layers.values()) + ACTIVATIONS * min(BATCH_TOKENS, STATISTICS_TOKENS) * widest)


def check_memory(source: Source, plan: Plan, dtype: torch.dtype | None, most: int) -> int:
    """The bytes that units may have together, so that the process stays below `most`.

    Raises:
        SpikeconvError: that is less than one of them needs, or what the conversion needs is not known.
    """
    if plan.calibrates:
        raise SpikeconvError("--max-memory cannot be kept while weights are calibrated; leave one of the two out.")
    base = resident_bytes()
    working = working_bytes(source, plan, output_specs(source, plan, dtype))
    name, largest = max(working.items(), key=lambda item: item[1])
    if (statistics := statistics_bytes(source, plan)) > largest:
        name, largest = "the statistics of the balance", statistics
    if base + largest > most:
        raise SpikeconvError(
            f"--max-memory is {most / 1e6:,.0f} MB, but {name} needs {largest / 1e6:,.0f} MB beside the "
            f"{base / 1e6:,.0f} MB of the program."
        )
    return most - base


def itemsize(dtype: torch.dtype | str) -> int:
    """Bytes of a value of a source's tensor."""
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 4


def resident_bytes() -> int:
    """What this process has in memory now; where the system does not tell, the most it ever had."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
