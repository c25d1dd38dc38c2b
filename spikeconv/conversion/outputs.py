"""What a conversion will write, from its plan alone: names, dtypes and shapes."""

import torch

from spikeconv.checkpoint.layout import TensorSpec
from spikeconv.conversion.plan import Job, Plan
from spikeconv.sources.base import Source

__all__ = ["output_specs"]


def output_specs(source: Source, plan: Plan, dtype: torch.dtype | None) -> dict[str, list[TensorSpec]]:
    """The tensors that take the place of each tensor of a source, in file order; that tensor is a unit of work.

    Args:
        source: what was planned.
        plan: what to convert and how.
        dtype: dtype of the tensors that stay float; None: each as it is.
    """
    jobs = {f"{job.linear.name}.weight": job for job in plan.jobs}
    made = {f"{job.linear.name}.bias" for job in plan.jobs if job.scheme.weights.has_bias or _is_centered(job, plan)}
    return {
        name: _converted(source, jobs[name], plan, dtype) if name in jobs else [_kept(source, name, dtype)]
        for name in plan.tensors
        if name not in made
    }


def _kept(source: Source, name: str, dtype: torch.dtype | None) -> TensorSpec:
    return TensorSpec(name, dtype or _float(source, name), source.shape(name))


def _converted(source: Source, job: Job, plan: Plan, dtype: torch.dtype | None) -> list[TensorSpec]:
    name = job.linear.name
    specs = [
        TensorSpec(f"{name}.{key}", kind or dtype or _float(source, f"{name}.weight"), tuple(shape))
        for key, (shape, kind) in job.shapes.items()
    ]
    if _is_centered(job, plan) or job.scheme.weights.has_bias:
        specs.append(TensorSpec(f"{name}.bias", dtype or torch.float32, (job.out_features,)))
    return specs


def _is_centered(job: Job, plan: Plan) -> bool:
    """Whether a constant part of the input comes back as a bias."""
    return job.linear.center is not None and f"{job.linear.center}.bias" in plan.tensors


def _float(source: Source, name: str) -> torch.dtype:
    """The dtype that a tensor is read with: nothing here computes in float64."""
    dtype = source.dtype(name)
    assert isinstance(dtype, torch.dtype), "a source is checked to hold floats before it is planned"
    return torch.float32 if dtype == torch.float64 else dtype
