"""What will be converted, what will not and why: decided and checked before anything is read in full or written."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spikeconv.config import LinearScheme, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, ModuleLinear, find_family, folded_norms, head_dim
from spikeconv.nn import buffer_shapes
from spikeconv.rotation import Rotation
from spikeconv.sources.hf import Source

__all__ = ["Job", "Plan", "hf_config", "make_plan"]


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
    """

    family: Family
    config: SpikeConfig
    jobs: tuple[Job, ...]
    skipped: dict[str, str]

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
        layer = re.compile(rf"^({re.escape(self.family.layers)})\.\d+\.")
        return {layer.sub(r"\1.*.", name): reason for name, reason in self.skipped.items()}

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
        SpikeconvError: the architecture is unknown, the source is quantized already, needs remote code, lacks a tensor,
            or holds one of another shape or dtype; QuaRot or kv_bits are impossible with it; or nothing would be
            converted.
    """
    check_convertible(source.config, str(source.path))
    family = find_family(source.config)
    if family.no_quarot and config.rotation == "quarot":
        raise SpikeconvError(f"rotation=quarot is impossible with {family.architecture}: {family.no_quarot}.")
    _check_kv(source, family, config)
    config = family.settle(config)
    layout = family.layout(hf_config(source.config).num_hidden_layers)
    shapes = _check_tensors(source, {linear.name for linear in layout})
    jobs, skipped = [], {}
    for linear in layout:
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None:
            skipped[linear.name] = "asked for by --skip"
        else:
            out_features, in_features = shapes[f"{linear.name}.weight"]
            jobs.append(Job(linear, scheme, in_features, out_features))
    for override in config.overrides:
        if not any(_names_one(override.pattern, linear) for linear in layout):
            raise SpikeconvError(f"--override {override.pattern} matches no linear of {source.path}.")
    for pattern in config.skip:
        if not any(_names_one(pattern, linear) for linear in layout):
            raise SpikeconvError(f"--skip {pattern} matches no linear of {source.path}.")
    if not jobs:
        raise SpikeconvError(f"Nothing to convert in {source.path}: all {len(layout)} linears are skipped.")
    return Plan(family, config, tuple(jobs), {**skipped, **family.skipped})


def _check_kv(source: Source, family: Family, config: SpikeConfig) -> None:
    if config.kv is None:
        return
    if family.attention is None:
        raise SpikeconvError(f"{family.architecture} has no keys and values that kv_bits could apply to.")
    size = head_dim(hf_config(source.config))
    if config.kv_group and size % config.kv_group:
        raise SpikeconvError(f"kv_group {config.kv_group} does not divide head_dim {size}.")


def check_convertible(config: dict[str, Any], path: str) -> None:
    """Refuse a source that is converted or quantized already."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method == "spikeconv":
        raise SpikeconvError(f"{path} is already converted; convert its float source instead (see its spikeconv.json).")
    if method:
        raise SpikeconvError(f"{path} is quantized with {method}; convert the float checkpoint instead.")


def hf_config(config: dict[str, Any]) -> PretrainedConfig:
    """The transformers configuration of a supported `config.json`.

    Raises:
        SpikeconvError: the architecture is unknown or its package missing, or transformers does not accept a value.
    """
    family = find_family(config)
    if family.model_type not in CONFIG_MAPPING:
        raise SpikeconvError(f"{family.architecture} needs a package: pip install {family.package}")
    try:
        return CONFIG_MAPPING[family.model_type].from_dict({**config, **family.fixed})
    except Exception as error:  # each model validates in its own way
        reason = " ".join(str(error.__cause__ or error).split())
        raise SpikeconvError(f"config.json does not describe a {family.architecture}: {reason}") from None


def _names_one(pattern: str, linear: ModuleLinear) -> bool:
    return SpikeConfig(skip=(pattern,)).for_linear(linear.name, linear.role) is None


def _check_tensors(source: Source, linears: set[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, after comparing names, shapes and dtypes with the model that the config describes."""
    model_config = hf_config(source.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    names = set(source.names())
    for name, shape in expected.items():
        if name not in names:
            if name in tied:
                continue
            raise SpikeconvError(f"{source.path} holds no tensor {name}, which its config.json asks for.")
        if source.shape(name) != shape:
            raise SpikeconvError(f"{source.path}: {name} has shape {source.shape(name)}, config.json asks for {shape}.")
        if not isinstance(source.dtype(name), torch.dtype):
            raise SpikeconvError(f"{source.path}: {name} has dtype {source.dtype(name)}, expected a float weight.")
    return {f"{name}.weight": expected[f"{name}.weight"] for name in linears}
