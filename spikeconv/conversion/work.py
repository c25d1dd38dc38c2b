"""What becomes of one tensor of a source: it stays, with what a rotation folds, or is rotated, rounded and packed.

Nothing here remembers anything from one tensor to the next, so that several threads can work.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv.conversion.linear import BLOCK, ConvertedLinear, convert_blocks, convert_linear
from spikeconv.conversion.plan import Job, Plan
from spikeconv.conversion.writing import CPU
from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source
from spikeconv.weights import Statistics

__all__ = ["LinearResult", "Unit", "Work"]

TIED = {"model.embed_tokens.weight": "lm_head.weight"}
"""What a source may hold in the place of a tensor that it ties."""

DEVICE_BLOCK = 1 << 22
"""Weights that a device other than the CPU rotates and rounds at a time."""
MOST = 2.0**63
"""A row's sum of absolute weights stays below, so that its rotation and the squares of its errors are finite."""


@dataclass(frozen=True)
class LinearResult:
    """How well one linear was rounded.

    Attributes:
        layer, role: which it is.
        relative_error: of its weights.
        output_error: of its outputs, where it was calibrated.
        raised: the damping that its Hessian was factored with, where the one asked for would not do.
    """

    layer: int
    role: str
    relative_error: float
    output_error: float | None = None
    raised: float | None = None


class Unit(NamedTuple):
    """What takes the place of one tensor of the source.

    Attributes:
        tensors: by name.
        result: of a linear's weight that was converted.
        seconds: that it took.
    """

    tensors: dict[str, Tensor]
    result: LinearResult | None
    seconds: float = 0.0


class Work:
    """Turns source tensors into checkpoint tensors.

    Args:
        source: in the basis of the conversion (`Plan.balanced`).
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None: each as it is.
        device: that rotates and rounds; every tensor comes from the CPU and goes back there.
    """

    def __init__(self, source: Source, plan: Plan, dtype: torch.dtype | None, device: torch.device = CPU) -> None:
        self._source = source
        self._jobs = {job.linear.name: job for job in plan.jobs}
        self._dtype, self._device = dtype, device
        self._held = {job.linear.name: plan.calibrated(job) for job in plan.jobs}
        self._block = BLOCK if device.type == "cpu" else DEVICE_BLOCK
        self._folded, self._norms, self._tensors = plan.folded_norms(), plan.norm_kinds(), set(plan.tensors)

    def process(self, name: str, statistics: Statistics | None = None) -> Unit:
        """What takes the place of one source tensor; of its inputs, where it is a weight that asks for them."""
        start = time.perf_counter()
        made = self._made(name, statistics)
        return made._replace(seconds=time.perf_counter() - start)

    def _made(self, name: str, statistics: Statistics | None) -> Unit:
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module in self._jobs:
            return self._convert(module, statistics)
        return Unit({name: self._cast(name, self._float(name))}, None)

    def loaded(self, name: str) -> Tensor:
        """A tensor as the float network has it, in the basis of the conversion; of tied ones, whichever is there."""
        if name not in self._tensors:
            name = TIED[name]
        return self._float(name) if name.removesuffix(".weight") in self._jobs else self._cast(name, self._float(name))

    def _convert(self, module: str, statistics: Statistics | None) -> Unit:
        job, name = self._jobs[module], f"{module}.weight"
        gamma, center = (
            None if each is None else each.to(self._device) for each in (self._gamma(name), self._center(job))
        )
        held = self._held[module].to(self._device)
        weights, bias = job.scheme.weights, f"{module}.bias"
        adds = (weights.has_bias or center is not None) and bias in self._tensors
        given = _read(self._source, bias).to(self._device) if adds else None
        if not weights.is_float and not weights.is_calibrated:
            blocks = self._source.blocks(name, max(1, self._block // job.in_features))
            checked = (self._rotatable(job, block.to(self._device), gamma) for block in blocks)
            converted = convert_blocks(checked, job.out_features, job.scheme, gamma, center, held, given)
        else:
            weight = self._rotatable(job, self._source.load(name).to(self._device), gamma)
            statistics = None if statistics is None else statistics.to(self._device)
            converted = convert_linear(weight, job.scheme, gamma, center, held, statistics, given)
        tensors = {
            f"{module}.{key}": self._cast(f"{module}.{key}", value.cpu()) if key in ("weight", "bias") else value.cpu()
            for key, value in converted.tensors.items()
        }
        return Unit(tensors, _result(job, converted))

    def _rotatable(self, job: Job, weight: Tensor, gamma: Tensor | None) -> Tensor:
        """Rows of a weight, checked: finite, and so small that their rotation is."""
        name = f"{job.linear.name}.weight"
        checked, largest = _finite(self._source, name, weight)
        if largest * (1.0 if gamma is None else _largest(gamma)) * job.in_features > MOST:
            raise SpikeconvError(
                f"{self._source.path}: {name} holds {largest:.3g}, too much to rotate and round in float32; "
                "the source is damaged and was not converted."
            )
        return checked

    def _float(self, name: str) -> Tensor:
        """A tensor that stays float, with what a rotation folds."""
        tensor = _read(self._source, name)
        if name in self._folded.values():
            return torch.full_like(tensor, self._norms[name].neutral)
        gamma = self._gamma(name)
        return tensor if gamma is None else (tensor.float() * gamma.float()).to(tensor.dtype)

    def _gamma(self, name: str) -> Tensor | None:
        """What is folded into a weight."""
        norm = self._folded.get(name)
        return None if norm is None else self._norms[norm].gamma(_read(self._source, norm))

    def _center(self, job: Job) -> Tensor | None:
        """The constant part of a linear's input, rounded as the checkpoint will hold it."""
        name = f"{job.linear.center}.bias"
        return self._cast(name, _read(self._source, name)) if job.linear.center and name in self._tensors else None

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        return _to(self._dtype or tensor.dtype, name, tensor) if tensor.is_floating_point() else tensor


def _result(job: Job, converted: ConvertedLinear) -> LinearResult:
    raised = converted.damping is not None and converted.damping > job.scheme.weights.damping
    return LinearResult(
        job.linear.layer,
        job.linear.role,
        converted.relative_error,
        converted.output_error,
        converted.damping if raised else None,
    )


def _read(source: Source, name: str) -> Tensor:
    """A tensor of the source, finite; float64, in which nothing here computes, comes as float32."""
    return _finite(source, name, source.load(name))[0]


def _finite(source: Source, name: str, tensor: Tensor) -> tuple[Tensor, float]:
    """The same of a tensor that was read, or a part of it, and its largest magnitude."""
    largest = _largest(tensor)
    if not math.isfinite(largest):
        kind = "NaN" if tensor.isnan().any() else "infinity"
        raise SpikeconvError(f"{source.path}: {name} contains {kind}; the source is damaged and was not converted.")
    if tensor.dtype == torch.float64:
        tensor = _to(torch.float32, f"{source.path}: {name}", tensor)
    return tensor, largest


def _to(dtype: torch.dtype, name: str, tensor: Tensor) -> Tensor:
    cast = tensor.to(dtype)
    if cast is not tensor and not math.isfinite(_largest(cast)):
        kind = str(dtype).removeprefix("torch.")
        raise SpikeconvError(f"{name} holds {tensor.abs().max():.3g}, too much for {kind}.")
    return cast


def _largest(tensor: Tensor) -> float:
    """The largest magnitude, NaN if there is one: a single pass, thirty times as fast as `isfinite`."""
    if not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return max(-float(low), float(high)) if low == low else math.nan
