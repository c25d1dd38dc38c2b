"""What a conversion will take, before it is begun: bytes, memory, seconds, and what the model will compute per token.

Sizes and operations follow from the plan. Seconds come from trying: a few rows of every kind of weight are converted,
hashed and written, on as many threads as the conversion will have.
"""

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spikeconv.calibrate.windows import STATISTICS_TOKENS
from spikeconv.checkpoint.layout import Layout
from spikeconv.config import CountInputs, FloatInputs, GifInputs, LinearScheme
from spikeconv.conversion.demand import peak_of, resident_bytes, statistics_bytes, working_bytes
from spikeconv.conversion.linear import Calibrated, convert_linear
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.writing import Writing
from spikeconv.hashing import digest_of
from spikeconv.nn import Encoder
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.tensor_files import bytes_of

__all__ = ["Estimate", "PerToken", "estimate"]

SAMPLE = 1 << 21
"""Weights of each kind that are tried at a time."""
SECONDS = 2.0
"""For all that is tried."""
CONTEXT = 1024
"""Tokens of the text whose operations are counted."""
PRODUCT_TOKENS = 512
"""Rows of the product that the speed of the float network is judged by."""
GAUSSIAN_TOKENS = 16
"""Random inputs that every kind of encoder is tried on."""


@dataclass(frozen=True)
class PerToken:
    """Operations of the converted model for each token of a text of `context` tokens.

    Attributes:
        context: tokens of the text.
        macs: multiply-accumulates that the converted linears have in a float model.
        spikes_per_input: those of Gaussian inputs, weighted by multiply-accumulates; None where no spikes are sent.
            Real inputs have other tails: `report-firing-rate` measures them.
        accumulations: signed additions instead of `macs`, with so many spikes.
        slots: of the slowest linear.
        inputs: values that are encoded.
        rotation_additions: of the Hadamard transforms.
        float_macs: what stays in floating point, by what it is for.
    """

    context: int
    macs: int
    spikes_per_input: float | None
    accumulations: float | None
    slots: int
    inputs: int
    rotation_additions: int
    float_macs: dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """What a conversion will take.

    Attributes:
        source_bytes: of the source's weights.
        output_bytes: of the weight files that will be written.
        shards: how many those are.
        jobs: threads.
        peak_bytes: the most memory, the program included; None where weights are calibrated.
        largest: the tensor that needs most, and how much.
        seconds: of converting, hashing and writing, with the source in memory; None where weights are calibrated.
        calibration_seconds: of the statistics that a balance needs; 0 without one, None where more is found on a text.
        per_token: operations.
    """

    source_bytes: int
    output_bytes: int
    shards: int
    jobs: int
    peak_bytes: int | None
    largest: tuple[str, int]
    seconds: float | None
    calibration_seconds: float | None
    per_token: PerToken

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def estimate(
    source: Source, plan: Plan, dtype: torch.dtype | None, writing: Writing, folder: Path, searches: bool = False
) -> Estimate:
    """Estimate a conversion.

    Args:
        source: what was planned; it is not read.
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None: each as it is.
        writing: how it would be written.
        folder: where the output would lie; how fast its disk is shows in a file without a name.
        searches: whether encoders will be searched on a text.
    """
    base = resident_bytes()  # before anything is tried
    units = output_specs(source, plan, dtype)
    layout = Layout.of((spec for specs in units.values() for spec in specs), writing.shard_bytes)
    working = working_bytes(source, plan, units)
    known = not plan.calibrates and not searches and not plan.clips
    seconds = None if plan.calibrates else _seconds(source, plan, layout, writing, folder)
    peak = base + max(peak_of(working, writing.jobs), statistics_bytes(source, plan))
    return Estimate(
        source_bytes=source.size(),
        output_bytes=sum(layout.sizes.values()),
        shards=len(layout.sizes),
        jobs=writing.jobs,
        peak_bytes=min(peak, writing.max_memory or peak) if known else None,
        largest=max(working.items(), key=lambda item: item[1]),
        seconds=seconds,
        calibration_seconds=_statistics_seconds(source, plan) if known else None,
        per_token=_per_token(source, plan),
    )


def _seconds(source: Source, plan: Plan, layout: Layout, writing: Writing, folder: Path) -> float:
    """Of converting, hashing and writing, by the rates of a few rows."""
    kinds: Counter[tuple[int, LinearScheme]] = Counter()
    for job in plan.jobs:
        kinds[job.in_features, job.scheme] += job.weights
    budget = SECONDS / (len(kinds) + 2)
    jobs = writing.jobs
    converting = sum(count / _rate(_trial(*kind, writing.device), jobs, budget) for kind, count in kinds.items())
    written = sum(layout.sizes.values())
    noise = bytes_of(torch.randn(SAMPLE))
    hashing = (source.size() + written) / _rate(partial(_try_bytes, noise), jobs, budget)
    return converting + hashing + written / _disk_rate(noise, folder, budget)


def _trial(width: int, scheme: LinearScheme, device: torch.device) -> Callable[[], int]:
    """Converts some rows, and returns how many weights."""
    weight = torch.empty(max(1, SAMPLE // width), width, dtype=torch.bfloat16).uniform_(-1, 1)
    d = torch.ones(width) if scheme.balance != "none" else None
    salient = torch.zeros(width, dtype=torch.uint8) if isinstance(scheme.inputs, GifInputs) else None
    held = Calibrated(balance=d, salient=salient).to(device)  # α of neurons costs nothing

    def convert() -> int:
        convert_linear(weight.to(device), scheme, held=held)
        return weight.numel()

    return convert


def _try_bytes(data: memoryview) -> int:
    """Hash some bytes; returns how many."""
    digest_of(data)
    return len(data)


def _rate(work: Callable[[], int], jobs: int, seconds: float) -> float:
    """What `work` returns, per second, on so many threads with one of torch's each."""

    def repeat(until: float) -> int:
        done = 0
        while time.perf_counter() < until or not done:
            done += work()
        return done

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(jobs, "estimate", torch.set_num_threads, (1,)) as pool:
            start = time.perf_counter()
            done = sum(pool.map(repeat, [start + seconds] * jobs))
            return done / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def _disk_rate(data: memoryview, folder: Path, seconds: float) -> float:
    """Bytes a second that reach the disk, written to a file that has no name and is gone at once."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    written, start = 0, time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            while not written or time.perf_counter() - start < seconds:
                written += os.write(file.fileno(), data)
            os.fsync(file.fileno())
    except OSError:  # nothing can be written there, and the plan will say so
        return math.inf
    return written / (time.perf_counter() - start)


def _statistics_seconds(source: Source, plan: Plan) -> float:
    """Of running the float network over the text, where a balance or salient channels are calibrated."""
    runs = bool(plan.balanced_groups) + plan.selects  # each runs it once
    if not runs:
        return 0.0
    weights = sum(torch.Size(source.shape(f"{linear.name}.weight")).numel() for linear in plan.layout)
    width = plan.jobs[0].in_features
    left, right = torch.ones(PRODUCT_TOKENS, width), torch.ones(width, width)

    def product() -> int:
        torch.mm(left, right)
        return left.numel() * width

    product()
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < SECONDS / 4:
        done += product()
    macs = done / (time.perf_counter() - start)
    return runs * STATISTICS_TOKENS * weights / macs


def _per_token(source: Source, plan: Plan) -> PerToken:
    sent = {kind: _gaussian(*kind) for kind in dict.fromkeys((job.in_features, job.scheme) for job in plan.jobs)}
    macs, spikes = plan.weights, 0.0
    for job in plan.jobs:
        spikes += job.weights * (sent[job.in_features, job.scheme].spikes or 0.0)
    sends = all(each.spikes is not None for each in sent.values())
    config = hf_config(source.config)
    stays = {name: value / CONTEXT for name, value in plan.family.float_macs(config, CONTEXT).items()}
    linears = {job.linear.name for job in plan.jobs}
    if kept := [linear.name for linear in plan.layout if linear.name not in linears]:
        stays["linears"] = float(sum(torch.Size(source.shape(f"{name}.weight")).numel() for name in kept))
    return PerToken(
        context=CONTEXT,
        macs=macs,
        spikes_per_input=spikes / macs if sends else None,
        accumulations=spikes if sends else None,
        slots=max(each.slots for each in sent.values()),
        inputs=sum(job.in_features for job in plan.encoders),
        rotation_additions=sum(job.rotation_additions for job in plan.encoders),
        float_macs=stays,
    )


class _Sent(NamedTuple):
    """Spikes per input, None where values are sent whole, and slots of an encoder."""

    spikes: float | None
    slots: int


def _gaussian(width: int, scheme: LinearScheme) -> _Sent:
    """What an encoder sends of Gaussian inputs."""
    if isinstance(scheme.inputs, FloatInputs) or scheme.inputs.spikes == "integer":
        return _Sent(None, 1)
    whole = scheme.inputs.model_copy(update={"clip": None}) if isinstance(scheme.inputs, CountInputs) else scheme.inputs
    encoder = Encoder(width, scheme.model_copy(update={"inputs": whole}))
    assert encoder.codec is not None, "only floats have none"
    inputs = torch.randn(GAUSSIAN_TOKENS, width, generator=torch.Generator().manual_seed(0))
    train = encoder.codec.unfold(encoder.codec.encode(encoder.potential(inputs)).counts, encoder.code)
    return _Sent(int(train.count_nonzero()) / inputs.numel(), len(train))
