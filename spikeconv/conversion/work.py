"""What becomes of one tensor of a source: it stays, with what a rotation folds, or is rotated, rounded and packed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spikeconv.conversion.linear import ConvertedLinear, convert_linear
from spikeconv.conversion.plan import Job, Plan
from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source
from spikeconv.weights import Statistics

__all__ = ["LayerResult", "Work"]

TIED = {"model.embed_tokens.weight": "lm_head.weight"}
"""What a source may hold in the place of a tensor that it ties."""

MOST = 2.0**63
"""A row's sum of absolute weights stays below, so that its rotation and the squares of its errors are finite."""


@dataclass(frozen=True)
class LayerResult:
    """Relative errors of each role of one decoder layer: of its weights and, where calibrated, of its outputs.

    `raised` is the damping that a calibrated one's Hessian was factored with, where that asked for would not do.
    """

    layer: int
    relative_error: dict[str, float]
    output_error: dict[str, float] = field(default_factory=dict)
    raised: dict[str, float] = field(default_factory=dict)


class Work:
    """Turns source tensors into checkpoint tensors, and tells of the errors layer by layer."""

    def __init__(
        self, source: Source, plan: Plan, dtype: torch.dtype | None, on_layer: Callable[[LayerResult], None]
    ) -> None:
        self._source = source
        self._jobs = {job.linear.name: job for job in plan.jobs}
        self._dtype, self._on_layer, self._balances = dtype, on_layer, plan.encoder_balances()
        self._results: dict[int, LayerResult] = {}
        self._left: dict[int, int] = {}
        for job in plan.jobs:
            self._left[job.linear.layer] = self._left.get(job.linear.layer, 0) + 1
        self._folded, self._norms, self._tensors = plan.folded_norms(), plan.norm_kinds(), set(plan.tensors)

    def process(self, name: str) -> dict[str, Tensor]:
        """The tensors that take the place of one source tensor."""
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module in self._jobs:
            return {f"{module}.{key}": tensor for key, tensor in self.convert(module).items()}
        return {name: self._cast(name, self._float(name))}

    def loaded(self, name: str) -> Tensor:
        """A tensor as the float network has it, in the basis of the conversion; of tied ones, whichever is there."""
        if name not in self._tensors:
            name = TIED[name]
        return self._float(name) if name.removesuffix(".weight") in self._jobs else self._cast(name, self._float(name))

    def convert(self, module: str, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """The tensors of a converted linear, by buffer name."""
        job, name = self._jobs[module], f"{module}.weight"
        tensor, gamma = _read(self._source, name), self._gamma(name)
        largest = float(tensor.abs().max()) * (1.0 if gamma is None else float(gamma.abs().max()))
        if largest * job.in_features > MOST:
            raise SpikeconvError(
                f"{self._source.path}: {name} holds {tensor.abs().max():.3g}, too much to rotate and round in float32; "
                "the source is damaged and was not converted."
            )
        bias = f"{module}.bias"
        converted = convert_linear(
            tensor,
            job.scheme,
            gamma,
            self._center(job),
            job.threshold,
            self._balances.get(name),
            statistics,
            _read(self._source, bias) if job.scheme.weights.has_bias and bias in self._tensors else None,
        )
        self._note(job, converted)
        return {
            key: self._cast(f"{module}.{key}", value) if key in ("weight", "bias") else value
            for key, value in converted.tensors.items()
        }

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

    def _note(self, job: Job, converted: ConvertedLinear) -> None:
        layer, role = job.linear.layer, job.linear.role
        result = self._results.setdefault(layer, LayerResult(layer, {}))
        result.relative_error[role] = converted.relative_error
        if converted.damping is not None and converted.output_error is not None:
            result.output_error[role] = converted.output_error
            if converted.damping > job.scheme.weights.damping:
                result.raised[role] = converted.damping
        self._left[layer] -= 1
        if not self._left[layer]:
            self._on_layer(result)


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
