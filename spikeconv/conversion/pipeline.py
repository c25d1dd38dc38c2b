"""The way a weight travels: source ─▶ plan ─▶ rotate ─▶ quantize ─▶ pack ─▶ sink, one tensor at a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spikeconv.calibrate.sequential import Sequential
from spikeconv.checkpoint.balance import write_balance
from spikeconv.checkpoint.card import model_card
from spikeconv.checkpoint.format import quantization_config
from spikeconv.checkpoint.writer import RECORD, Sink
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.record import make_record
from spikeconv.conversion.work import LayerResult, Work
from spikeconv.errors import SpikeconvError
from spikeconv.plain import write_json
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.weight_files import EXPLICIT_WEIGHTS

__all__ = ["ConvertSummary", "LayerResult", "checkpoint_config", "convert", "converted_tensors"]


@dataclass
class ConvertSummary:
    """What came out of a conversion."""

    output: str
    bits: str
    virtual_steps: int
    sending: str
    converted: int
    skipped: int
    bits_per_weight: float
    bytes_before: int
    bytes_after: int
    mean_relative_error: float
    seconds: float = 0.0
    layers: list[LayerResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def convert(
    source: Source,
    plan: Plan,
    output: Path,
    *,
    command: str = "",
    dtype: torch.dtype | None = None,
    force: bool = False,
    track: Track = silent,
    on_layer: Callable[[LayerResult], None] = lambda result: None,
) -> ConvertSummary:
    """Convert a source by a plan into the directory `output`.

    Args:
        source: where weights come from.
        plan: what to convert and how (see `make_plan`); its settings go into `config.json`.
        output: the checkpoint to create.
        command: the command line, for the record.
        dtype: dtype of the tensors that stay float; None keeps each as it is.
        force: replace an existing converted checkpoint.
        track: progress display.
        on_layer: called once for every finished decoder layer.

    Raises:
        SpikeconvError: the output is in the way or cannot be written, or a weight is not finite.
    """
    start = time.perf_counter()
    layers: list[LayerResult] = []

    def finished(result: LayerResult) -> None:
        layers.append(result)
        on_layer(result)

    try:
        with Sink(output, force=force) as sink:
            source.copy_companions(sink.scratch)  # first: what cannot be read costs no work
            for name, tensor in converted_tensors(source, plan, dtype, track, finished):
                sink.add(name, tensor)
            files = sink.finish_shards()
            if plan.diagonals is not None:
                files.append(write_balance(sink.scratch, plan.diagonals, dtype))
            record = make_record(source, plan, files, command, layers)
            write_json(sink.scratch / RECORD, record)
            card = model_card(sink.target.name, record)
            (sink.scratch / "README.md").write_text(card, encoding="utf-8", errors="replace")
            size = sink.commit(checkpoint_config(source, plan, dtype))
    except (OSError, SafetensorError) as error:
        raise SpikeconvError(f"Writing {output} failed, and nothing of it was kept: {error}") from None
    errors = [value for layer in layers for value in layer.relative_error.values()]
    return ConvertSummary(
        output=str(output),
        bits=plan.config.bits,
        virtual_steps=plan.config.inputs.virtual_steps,
        sending=plan.config.sending,
        converted=len(plan.jobs),
        skipped=len(plan.skipped),
        bits_per_weight=plan.bits_per_weight,
        bytes_before=source.size(),
        bytes_after=size,
        mean_relative_error=sum(errors) / len(errors),
        seconds=time.perf_counter() - start,
        layers=layers,
    )


def converted_tensors(
    source: Source,
    plan: Plan,
    dtype: torch.dtype | None,
    track: Track = silent,
    on_layer: Callable[[LayerResult], None] = lambda result: None,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the converted checkpoint by name, one at a time and in the order of the source.

    Args:
        source: where weights come from.
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None keeps each as it is.
        track: progress display.
        on_layer: called once for every finished decoder layer.

    Raises:
        SpikeconvError: a weight is not finite, or a threshold or the factors of a balance are missing.
    """
    for job in plan.jobs:
        if job.scheme.clip is not None and job.threshold is None:
            raise SpikeconvError(f"The input of {job.linear.name} is clipped, but its threshold was not calibrated.")
    source = plan.balanced(source, dtype)
    work = Work(source, plan, dtype, on_layer)
    if plan.calibrates:
        yield from _calibrated_tensors(source, plan, work, track)
        return
    for name in track(plan.tensors, "converting", len(plan.tensors)):
        yield from work.process(name).items()


def _calibrated_tensors(source: Source, plan: Plan, work: Work, track: Track) -> Iterator[tuple[str, Tensor]]:
    """What stays float in the order of the source, then the linears layer by layer."""
    if plan.calibration is None:
        method = next(job.scheme.weights.method for job in plan.jobs if job.scheme.weights.is_calibrated)
        raise SpikeconvError(f"weights={method} needs a calibration text, and none was read.")
    made = {f"{job.linear.name}.weight" for job in plan.jobs}
    made |= {f"{job.linear.name}.bias" for job in plan.jobs if job.scheme.weights.has_bias}
    for name in plan.tensors:
        if name not in made:
            yield from work.process(name).items()
    config = hf_config(source.config)
    networks = Sequential(plan.family, config, plan.config, work.loaded, plan.calibration.windows)
    groups = networks.convert(work.convert)
    for tensors in track(groups, "calibrating and converting", networks.groups):
        yield from tensors.items()


def checkpoint_config(source: Source, plan: Plan, dtype: torch.dtype | None) -> dict[str, Any]:
    """The `config.json` of a converted checkpoint."""
    result = {**source.config, **plan.family.fixed}
    for moved in ("torch_dtype", EXPLICIT_WEIGHTS):  # an older name of dtype; a file that the result does not have
        result.pop(moved, None)
    result["dtype"] = str(dtype or _dtype(source)).removeprefix("torch.")
    result["quantization_config"] = quantization_config(plan.config)
    return result


def _dtype(source: Source) -> torch.dtype:
    """The dtype that transformers computes in: of the config, or else of the first tensor; never float64 here."""
    found = (source.dtype(name) for name in source.names())
    first = next((dtype for dtype in found if isinstance(dtype, torch.dtype)), torch.float32)
    dtype: Any = hf_config(source.config).dtype or first
    return torch.float32 if dtype == torch.float64 else dtype
