"""What will be converted, what will not and why: decided and checked before anything is read in full or written."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from spikeconv.calibrate.sequential import why_not
from spikeconv.calibrate.windows import CalibrationText
from spikeconv.config import GifInputs, LinearScheme, NeuronInputs, Outputs, SpikeConfig, matches
from spikeconv.conversion.linear import Calibrated
from spikeconv.conversion.tensors import check_tensors
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, ModuleLinear, NormKind, find_family, folded_norms, head_dim
from spikeconv.nn import buffer_shapes
from spikeconv.rotation import Rotation
from spikeconv.sources.balanced import BalancedSource
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import build_empty, hf_config
from spikeconv.suggest import no_such_linear

__all__ = ["Job", "Plan", "check_convertible", "make_plan"]


@dataclass(frozen=True)
class Job:
    """One linear to convert.

    `threshold` is τ, where its input is clipped and that was calibrated; `outputs` says what becomes of its outputs.
    """

    linear: ModuleLinear
    scheme: LinearScheme
    in_features: int
    out_features: int
    threshold: float | None = None
    outputs: Outputs = "plain"

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.in_features * self.out_features

    @property
    def rotation_additions(self) -> int:
        """Of the online Hadamard transform of one input vector; 0 without."""
        rotation = self.scheme.rotation
        return 0 if rotation.is_none else Rotation(self.in_features, rotation.seed).additions()

    @property
    def packed_bytes(self) -> int:
        """Bytes of the converted tensors; float weights count two bytes each."""
        return sum(
            torch.Size(shape).numel() * (dtype or torch.float16).itemsize for shape, dtype in self.shapes.values()
        )

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        """Of the converted tensors by buffer name; None is the dtype of the model."""
        place = self.linear.folds, self.outputs
        return buffer_shapes(self.in_features, self.out_features, self.scheme, *place)


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
        layout: all linears, in order, converted or not.
        calibration: the text that something was calibrated on, where that was asked for and it was read.
        diagonals: the factors d [n] float32 by group, where inputs are balanced and that was calibrated.
        salient: the channels uint8 [n] with more bits by module name, where there are some and they were calibrated.
        salient_outputs: the same of keys and values [out].
        alphas: α float32 [T] in front of linears by module name, where inputs pass neurons and that was calibrated.
        output_alphas: the same behind keys and values.
        assumption: what the source was taken for because nobody said, in a sentence.
        found: what the record says of encoders that were chosen on the text, if they were.
    """

    family: Family
    config: SpikeConfig
    jobs: tuple[Job, ...]
    skipped: dict[str, str]
    tensors: tuple[str, ...]
    ignored: dict[str, str]
    layout: tuple[ModuleLinear, ...]
    assumption: str | None = None
    calibration: CalibrationText | None = field(default=None, compare=False)
    diagonals: Mapping[str, Tensor] | None = field(default=None, compare=False)
    salient: Mapping[str, Tensor] | None = field(default=None, compare=False)
    salient_outputs: Mapping[str, Tensor] | None = field(default=None, compare=False)
    alphas: Mapping[str, Tensor] | None = field(default=None, compare=False)
    output_alphas: Mapping[str, Tensor] | None = field(default=None, compare=False)
    found: dict[str, Any] | None = field(default=None, compare=False)

    @property
    def encoders(self) -> list[Job]:
        """The first linear of each encoder; others share what it has encoded."""
        found: dict[object, Job] = {}
        for job in self.jobs:
            found.setdefault((job.linear.group, job.scheme.encoding), job)
        return list(found.values())

    @property
    def balanced_groups(self) -> set[str]:
        """The groups of linears whose input is balanced."""
        return {job.linear.group for job in self.jobs if job.scheme.balance != "none"}

    def balanced(self, source: Source, dtype: torch.dtype | None) -> Source:
        """The source in the basis of the conversion: with every factor folded in that can be.

        Args:
            source: what was planned.
            dtype: dtype of what stays float in the checkpoint; None: each as it is.

        Raises:
            SpikeconvError: factors are wanted, but were not calibrated.
        """
        if not (groups := self.balanced_groups):
            return source
        if self.diagonals is None or not groups <= self.diagonals.keys():
            raise SpikeconvError("balance=sqrt needs statistics of a calibration text, and none was read.")
        exact = {f"{job.linear.name}.weight" for job in self.jobs if not job.scheme.weights.is_float}
        return BalancedSource(source, self.layout, self.diagonals, dtype, exact)

    def calibrated(self, job: Job) -> Calibrated:
        """What was calibrated of a linear."""
        scheme, name = job.scheme, job.linear.name
        return Calibrated(
            None if scheme.clip is None else job.threshold,
            self.balance_told(job),
            (self.salient or {})[name] if isinstance(scheme.inputs, GifInputs) else None,
            (self.salient_outputs or {})[name] if job.outputs == "salient" else None,
            (self.alphas or {})[name] if isinstance(scheme.inputs, NeuronInputs) else None,
            (self.output_alphas or {})[name] if job.outputs == "neuron" else None,
        )

    def balance_told(self, job: Job) -> Tensor | None:
        """d [n], where the encoder multiplies by it: nothing in front can take it in."""
        is_told = job.scheme.balance != "none" and not job.linear.folds
        return (self.diagonals or {})[job.linear.group] if is_told else None

    @property
    def selects(self) -> bool:
        """Whether channels of an input, or of keys and values, have more bits than others."""
        return any(isinstance(job.scheme.inputs, GifInputs) or job.outputs == "salient" for job in self.jobs)

    @property
    def fires(self) -> bool:
        """Whether inputs pass neurons, whose α a text says."""
        return any(isinstance(job.scheme.inputs, NeuronInputs) for job in self.jobs)

    @property
    def calibrates(self) -> bool:
        """Whether a weight is rounded for the inputs that a text gives."""
        return any(job.scheme.weights.is_calibrated for job in self.jobs)

    @property
    def clips(self) -> bool:
        """Whether the input of a linear is clipped."""
        return any(job.scheme.clip is not None for job in self.jobs)

    def with_thresholds(self, thresholds: Mapping[str, float]) -> "Plan":
        """The plan with τ by module name."""
        jobs = (replace(job, threshold=thresholds.get(job.linear.name, job.threshold)) for job in self.jobs)
        return replace(self, jobs=tuple(jobs))

    def folded_norms(self) -> dict[str, str]:
        """QuaRot: names of the weights that a norm is folded into, with the name of that norm's weight."""
        if not any(job.scheme.rotation.kind == "quarot" for job in self.jobs):
            return {}
        folded = folded_norms(list(self.layout), {job.linear.name for job in self.jobs})
        return {f"{linear}.weight": f"{norm}.weight" for linear, norm in folded.items()}

    def norm_kinds(self) -> dict[str, NormKind]:
        """The kind of the norm whose weight has that name."""
        return {f"{linear.norm}.weight": linear.norm_kind for linear in self.layout if linear.norm}

    def rotations(self) -> dict[int, str]:
        """Input size of every rotated linear, and the Hadamard matrix it uses."""
        sizes = {job.in_features: job.scheme.rotation.seed for job in self.jobs if not job.scheme.rotation.is_none}
        return {size: Rotation(size, seed).describe() for size, seed in sorted(sizes.items())}

    def skipped_summary(self) -> dict[str, str]:
        """What stays, with the reason; linears of several layers are one entry, `model.layers.*.self_attn.q_proj`."""
        return self._without_layers(self.skipped)

    def ignored_summary(self) -> dict[str, str]:
        """What is not read, with the reason; tensors of several layers are one entry."""
        return self._without_layers(self.ignored)

    def _without_layers(self, reasons: dict[str, str]) -> dict[str, str]:
        paths = "|".join(re.escape(stack.layers) for stack in self.family.stacks)
        layer = re.compile(rf"^((?:{self.family.base}\.)?(?:{paths}))\.\d+\.")
        return {layer.sub(r"\1.*.", name): reason for name, reason in reasons.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "architecture": self.family.architecture,
            "assumption": self.assumption,
            "linears": [
                {
                    "name": job.linear.name,
                    "role": job.linear.role,
                    "in_features": job.in_features,
                    "out_features": job.out_features,
                    "virtual_steps": job.scheme.inputs.virtual_steps,
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
        """How many linears there are of each (role, scheme and how it is sent, in, out)."""
        return Counter(
            (
                job.linear.role,
                f"{job.scheme.bits}, {job.scheme.sending}"
                + (f", {job.scheme.weights.method}" if job.scheme.weights.is_calibrated else ""),
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
    if family.no_quarot and config.rotation.kind == "quarot":
        raise SpikeconvError(f"rotation=quarot is impossible with {family.architecture}: {family.no_quarot}.")
    if family.recurrent and config.time_steps > 1:
        raise SpikeconvError(
            f"time_steps={config.time_steps} is impossible with {family.architecture}: its state is that of one stream."
        )
    model_config = hf_config(source.config, most_layers=len(source.names()))
    _check_kv(model_config, family, config)
    config = family.settle(config, model_config)
    tensors = check_tensors(source, build_empty(model_config))
    layout = family.layout(model_config)
    jobs, skipped = [], {}
    for linear in layout:
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None:
            skipped[linear.name] = "asked for by --skip"
        else:
            out_features, in_features = tensors.shapes[f"{linear.name}.weight"]
            if reason := scheme.overflow(in_features):
                raise SpikeconvError(f"{linear.name}: {reason}.")
            if scheme.weights.is_calibrated and (reason := why_not(family)):
                raise SpikeconvError(f"weights={scheme.weights.method} is impossible: {reason}.")
            placed = linear if scheme.centers else replace(linear, center=None)
            outputs = config.outputs_of(linear.role, scheme)
            jobs.append(Job(placed, scheme, in_features, out_features, outputs=outputs))
    _check_patterns("--override", (override.pattern for override in config.overrides), layout, source)
    _check_patterns("--skip", config.skip, layout, source)
    if not jobs:
        raise SpikeconvError(f"Nothing to convert in {source.path}: all {len(layout)} linears are skipped.")
    if config.kv is not None and config.kv.selects:
        float_states = [linear.name for linear in layout if linear.role in ("k", "v") and linear.name in skipped]
        if float_states:
            raise SpikeconvError(f"kv_low_share needs {float_states[0]} to be converted; do not skip it.")
    _check_balance(jobs)
    reasons = {**skipped, **family.skipped_in(model_config)}
    names, ignored = tuple(tensors.shapes), dict(tensors.ignored)
    return Plan(family, config, tuple(jobs), reasons, names, ignored, tuple(layout), source.assumption)


def _check_kv(model_config: PretrainedConfig, family: Family, config: SpikeConfig) -> None:
    if config.kv is None:
        return
    if not family.has_attention:
        raise SpikeconvError(f"{family.architecture} has no keys and values that kv_bits could apply to.")
    size = head_dim(model_config)
    if config.kv.group and size % config.kv.group:
        raise SpikeconvError(f"kv_group {config.kv.group} does not divide head_dim {size}.")


def _check_balance(jobs: Iterable[Job]) -> None:
    """Linears of one input are balanced together: there is one factor for each of its channels."""
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.linear.group, job)
        if other.scheme.balance != job.scheme.balance:
            raise SpikeconvError(
                f"{other.linear.name} has balance={other.scheme.balance}, {job.linear.name} {job.scheme.balance}, but "
                "they have the same input; expected the same balance."
            )
        if job.scheme.balance != "none" and job.scheme.clip is not None and not job.linear.folds:
            raise SpikeconvError(
                f"{job.linear.name}: an input whose balance cannot be folded into what stands in front is not clipped; "
                "leave --balance or the clipping out."
            )


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


def _check_patterns(option: str, patterns: Iterable[str], layout: list[ModuleLinear], source: Source) -> None:
    """Refuse a pattern that means no linear."""
    for pattern in patterns:
        if not any(matches(pattern, linear.name, linear.role) for linear in layout):
            roles, names = (linear.role for linear in layout), [linear.name for linear in layout]
            raise no_such_linear(f"{option} {pattern}", pattern, str(source.path), roles, names)
