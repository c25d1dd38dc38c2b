"""What will be converted, what will not and why: decided and checked before anything is read in full or written."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from spikeconv.config import LinearScheme, SpikeConfig
from spikeconv.conversion.tensors import check_tensors
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, ModuleLinear, find_family, folded_norms, head_dim
from spikeconv.nn import buffer_shapes
from spikeconv.rotation import Rotation
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import build_empty, hf_config

__all__ = ["Job", "Plan", "make_plan"]


@dataclass(frozen=True)
class Job:
    """One linear to convert."""

    linear: ModuleLinear
    scheme: LinearScheme
    in_features: int
    out_features: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.in_features * self.out_features

    @property
    def packed_bytes(self) -> int:
        """Bytes of the converted tensors; float weights count two bytes each."""
        shapes = buffer_shapes(self.in_features, self.out_features, self.scheme).values()
        return sum(torch.Size(shape).numel() * (dtype or torch.float16).itemsize for shape, dtype in shapes)


@dataclass(frozen=True)
class Plan:
    """The conversion of one source.

    Attributes:
        family: its architecture.
        config: the settings, with the family's own in front of the user's overrides.
        jobs: the linears to convert, in order.
        skipped: module names that stay, with the reason.
        tensors: names of the source's tensors that are read, in file order.
        ignored: names of those that are not, with the reason.
    """

    family: Family
    config: SpikeConfig
    jobs: tuple[Job, ...]
    skipped: dict[str, str]
    tensors: tuple[str, ...]
    ignored: dict[str, str]

    def folded_norms(self) -> dict[str, str]:
        """QuaRot: names of the weights that a norm is folded into, with the name of that norm's weight."""
        if not any(job.scheme.rotation == "quarot" for job in self.jobs):
            return {}
        layout = self.family.layout(max(job.linear.layer for job in self.jobs) + 1)
        folded = folded_norms(layout, {job.linear.name for job in self.jobs})
        return {f"{linear}.weight": f"{norm}.weight" for linear, norm in folded.items()}

    def rotations(self) -> dict[int, str]:
        """Input size of every rotated linear, and the Hadamard matrix it uses."""
        sizes = {job.in_features: job.scheme.seed for job in self.jobs if job.scheme.rotation != "none"}
        return {size: Rotation(size, seed).describe() for size, seed in sorted(sizes.items())}

    def skipped_summary(self) -> dict[str, str]:
        """What stays, with the reason; linears of several layers are one entry, `model.layers.*.self_attn.q_proj`."""
        return self._without_layers(self.skipped)

    def ignored_summary(self) -> dict[str, str]:
        """What is not read, with the reason; tensors of several layers are one entry."""
        return self._without_layers(self.ignored)

    def _without_layers(self, reasons: dict[str, str]) -> dict[str, str]:
        layer = re.compile(rf"^({re.escape(self.family.layers)})\.\d+\.")
        return {layer.sub(r"\1.*.", name): reason for name, reason in reasons.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "architecture": self.family.architecture,
            "linears": [
                {
                    "name": job.linear.name,
                    "role": job.linear.role,
                    "in_features": job.in_features,
                    "out_features": job.out_features,
                    "virtual_steps": job.scheme.virtual_steps,
                    **job.scheme.model_dump(mode="json"),
                }
                for job in self.jobs
            ],
            "skipped": self.skipped,
            "ignored": self.ignored,
            "rotations": self.rotations(),
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
        }

    def roles(self) -> dict[tuple[str, str, int, int], int]:
        """How many linears there are of each (role, scheme with T', in, out)."""
        return Counter(
            (
                job.linear.role,
                f"{job.scheme.bits}, T'={job.scheme.virtual_steps}",
                job.in_features,
                job.out_features,
            )
            for job in self.jobs
        )

    @property
    def weights(self) -> int:
        """Number of weights to convert."""
        return sum(job.weights for job in self.jobs)

    @property
    def bits_per_weight(self) -> float:
        """Bits per converted weight, scales included."""
        return 8 * sum(job.packed_bytes for job in self.jobs) / self.weights


def make_plan(source: Source, config: SpikeConfig) -> Plan:
    """Decide what to convert, and check that the source holds it.

    Raises:
        SpikeconvError: the architecture is unknown, the source is quantized already or needs remote code; it lacks a
            tensor, or holds one of another shape or dtype or one that its model does not have; QuaRot or kv_bits are
            impossible with it; or nothing would be converted.
    """
    check_convertible(source.config, str(source.path))
    family = find_family(source.config)
    if family.no_quarot and config.rotation == "quarot":
        raise SpikeconvError(f"rotation=quarot is impossible with {family.architecture}: {family.no_quarot}.")
    model_config = hf_config(source.config, most_layers=len(source.names()))
    _check_kv(model_config, family, config)
    config = family.settle(config)
    tensors = check_tensors(source, build_empty(model_config))
    layout = family.layout(model_config.num_hidden_layers)
    jobs, skipped = [], {}
    for linear in layout:
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None:
            skipped[linear.name] = "asked for by --skip"
        else:
            out_features, in_features = tensors.shapes[f"{linear.name}.weight"]
            jobs.append(Job(linear, scheme, in_features, out_features))
    for override in config.overrides:
        if not any(_names_one(override.pattern, linear) for linear in layout):
            raise SpikeconvError(f"--override {override.pattern} matches no linear of {source.path}.")
    for pattern in config.skip:
        if not any(_names_one(pattern, linear) for linear in layout):
            raise SpikeconvError(f"--skip {pattern} matches no linear of {source.path}.")
    if not jobs:
        raise SpikeconvError(f"Nothing to convert in {source.path}: all {len(layout)} linears are skipped.")
    reasons = {**skipped, **family.skipped}
    return Plan(family, config, tuple(jobs), reasons, tuple(tensors.shapes), dict(tensors.ignored))


def _check_kv(model_config: PretrainedConfig, family: Family, config: SpikeConfig) -> None:
    if config.kv is None:
        return
    if family.attention is None:
        raise SpikeconvError(f"{family.architecture} has no keys and values that kv_bits could apply to.")
    size = head_dim(model_config)
    if config.kv_group and size % config.kv_group:
        raise SpikeconvError(f"kv_group {config.kv_group} does not divide head_dim {size}.")


def check_convertible(config: dict[str, Any], path: str) -> None:
    """Refuse a source that is converted or quantized already."""
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise SpikeconvError(f"{path}: config.json has a quantization_config that is no object; the source is damaged.")
    method = quantization.get("quant_method") or ("something unnamed" if quantization else None)
    if method == "spikeconv":
        raise SpikeconvError(f"{path} is already converted; convert its float source instead (see its spikeconv.json).")
    if method:
        raise SpikeconvError(f"{path} is quantized with {method}; convert the float checkpoint instead.")


def _names_one(pattern: str, linear: ModuleLinear) -> bool:
    return SpikeConfig(skip=(pattern,)).for_linear(linear.name, linear.role) is None
