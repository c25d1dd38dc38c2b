"""The way a weight travels: source ─▶ plan ─▶ rotate ─▶ quantize ─▶ pack ─▶ sink, one tensor at a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spikeconv.checkpoint.balance import write_balance
from spikeconv.checkpoint.card import model_card
from spikeconv.checkpoint.format import quantization_config
from spikeconv.checkpoint.writer import RECORD, Sink
from spikeconv.conversion.linear import convert_linear
from spikeconv.conversion.plan import Job, Plan
from spikeconv.conversion.record import make_record
from spikeconv.errors import SpikeconvError
from spikeconv.plain import write_json
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.weight_files import EXPLICIT_WEIGHTS

__all__ = ["ConvertSummary", "LayerResult", "checkpoint_config", "convert", "converted_tensors"]

MOST = 2.0**63
"""A row's sum of absolute weights stays below, so that its rotation and the squares of its errors are finite."""


@dataclass(frozen=True)
class LayerResult:
    """Relative weight error of each role of one decoder layer."""

    layer: int
    relative_error: dict[str, float]


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
            record = make_record(source, plan, files, command)
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
    source, work = plan.balanced(source, dtype), _Work(plan, dtype, on_layer)
    for name in track(plan.tensors, "converting", len(plan.tensors)):
        yield from work.process(name, source).items()


class _Work:
    """Turns source tensors into checkpoint tensors, and tells of the errors layer by layer."""

    def __init__(self, plan: Plan, dtype: torch.dtype | None, on_layer: Callable[[LayerResult], None]) -> None:
        self._jobs = {f"{job.linear.name}.weight": job for job in plan.jobs}
        self._dtype, self._on_layer, self._balances = dtype, on_layer, plan.encoder_balances()
        self._errors: dict[int, dict[str, float]] = {}
        self._left: dict[int, int] = {}
        for job in plan.jobs:
            self._left[job.linear.layer] = self._left.get(job.linear.layer, 0) + 1
        self._folded, self._norms, self._tensors = plan.folded_norms(), plan.norm_kinds(), set(plan.tensors)

    def process(self, name: str, source: Source) -> dict[str, Tensor]:
        """The tensors that take the place of one source tensor."""
        tensor = _read(source, name)
        if name in self._folded.values():
            return {name: self._cast(name, torch.full_like(tensor, self._norms[name].neutral))}
        norm = self._folded.get(name)
        gamma = None if norm is None else self._norms[norm].gamma(_read(source, norm))
        job = self._jobs.get(name)
        if job is None:
            scaled = tensor if gamma is None else (tensor.float() * gamma.float()).to(tensor.dtype)
            return {name: self._cast(name, scaled)}
        largest = float(tensor.abs().max()) * (1.0 if gamma is None else float(gamma.abs().max()))
        if largest * job.in_features > MOST:
            raise SpikeconvError(
                f"{source.path}: {name} holds {tensor.abs().max():.3g}, too much to rotate and round in float32; the "
                "source is damaged and was not converted."
            )
        center, balance = self._center(job, source), self._balances.get(name)
        converted = convert_linear(tensor, job.scheme, gamma, center, job.threshold, balance)
        self._note(job, converted.relative_error)
        prefix = name.removesuffix("weight")
        return {prefix + key: self._cast(prefix + key, value) if key in ("weight", "bias") else value
                for key, value in converted.tensors.items()}  # fmt: skip

    def _center(self, job: Job, source: Source) -> Tensor | None:
        """The constant part of a linear's input, rounded as the checkpoint will hold it."""
        name = f"{job.linear.center}.bias"
        return self._cast(name, _read(source, name)) if job.linear.center and name in self._tensors else None

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        return _to(self._dtype or tensor.dtype, name, tensor) if tensor.is_floating_point() else tensor

    def _note(self, job: Job, error: float) -> None:
        layer = job.linear.layer
        self._errors.setdefault(layer, {})[job.linear.role] = error
        self._left[layer] -= 1
        if not self._left[layer]:
            self._on_layer(LayerResult(layer, self._errors[layer]))


def _read(source: Source, name: str) -> Tensor:
    """A tensor of the source, finite; float64, in which nothing here computes, comes as float32."""
    tensor = source.load(name)
    if not torch.isfinite(tensor).all():
        kind = "NaN" if tensor.isnan().any() else "infinity"
        raise SpikeconvError(f"{source.path}: {name} contains {kind}; the source is damaged and was not converted.")
    return tensor if tensor.dtype != torch.float64 else _to(torch.float32, f"{source.path}: {name}", tensor)


def _to(dtype: torch.dtype, name: str, tensor: Tensor) -> Tensor:
    cast = tensor.to(dtype)
    if not cast.isfinite().all():
        kind = str(dtype).removeprefix("torch.")
        raise SpikeconvError(f"{name} holds {tensor.abs().max():.3g}, too much for {kind}.")
    return cast


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
