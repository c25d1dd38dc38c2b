"""What a conversion does, as one frozen object that drives the command line, YAML, `config.json` and tests."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from spikeconv.config.base import Settings
from spikeconv.config.code import CodeSettings
from spikeconv.config.inputs import ClipSettings, CountInputs, FloatInputs, InputSettings
from spikeconv.config.kv import KvSettings
from spikeconv.config.neurons import NeuronInputs
from spikeconv.config.overrides import Override, matches
from spikeconv.config.parsing import parse_settings, sentence
from spikeconv.config.paths import SHORT_NAMES, Tree, overlay
from spikeconv.config.rotation import RotationSettings
from spikeconv.config.short import PLAIN, expand
from spikeconv.config.weights import WeightSettings
from spikeconv.errors import SpikeconvError

__all__ = ["LinearScheme", "Outputs", "SpikeConfig"]

ACCUMULATOR = 1 << 31

KEYS_AND_VALUES = ("k", "v", "cross_k", "cross_v")
"""Roles whose outputs they are."""

Outputs = Literal["plain", "salient", "neuron"]
"""What becomes of a linear's outputs: nothing; some channels have more bits; they pass a neuron."""


class LinearScheme(Settings):
    """How one linear is converted; also accepts dotted paths and short forms (`spikeconv.config.paths`, `.short`)."""

    short_names: ClassVar[tuple[str, ...]] = tuple(name for name in SHORT_NAMES if not name.startswith("kv_"))

    weights: WeightSettings = Field(default_factory=WeightSettings)
    inputs: InputSettings = Field(default_factory=CountInputs)
    rotation: RotationSettings = Field(default_factory=RotationSettings)
    code: CodeSettings = Field(default_factory=CodeSettings)
    balance: Literal["none", "sqrt", "smoothquant"] = Field(
        "none",
        description="sqrt: channel i of the input times d_i = sqrt(‖W_i‖ / rms x_i), column i of W divided by it; "
        "smoothquant: maxima in the place of both norms",
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        tree = expand(values)
        inputs = tree.setdefault("inputs", {})
        if isinstance(inputs, dict) and inputs.setdefault("codec", "count") in PLAIN:
            # As in SpikeRWKV and SpikeLM: float weights, nothing rotated.
            for key, default in (("weights", {"bits": 16}), ("rotation", {"kind": "none"})):
                if isinstance(given := tree.get(key, {}), dict):
                    tree[key] = {**default, **given}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> "LinearScheme":
        if self.balance != "none" and self.rotation.kind == "quarot":
            raise ValueError(
                f"balance={self.balance} needs rotation=gamma-sqp or none: QuaRot leaves no γ to fold it into"
            )
        if self.clip is not None and self.rotation.kind == "quarot":
            raise ValueError("inputs.clip needs rotation=gamma-sqp or none: QuaRot's u lacks γ")
        if isinstance(self.inputs, CountInputs):
            object.__setattr__(self, "inputs", self._as_the_code_sends(self.inputs))
        if isinstance(self.inputs, NeuronInputs):
            if self.balance != "none":
                raise ValueError(f"balance is for counts; what codec={self.inputs.codec} sends is its α or nothing")
            if self.code.kind != "unary":
                raise ValueError(f"codec={self.inputs.codec} sends its spikes as they are: no code={self.code.kind}")
            if self.weights.is_calibrated:
                raise ValueError(f"codec={self.inputs.codec} needs weights=rtn, sign or ternary")
        if self.clip is not None and self.weights.is_calibrated:
            raise ValueError(
                f"inputs.clip needs weights=rtn: {self.weights.method} aims at the float model, which clips nothing"
            )
        if not isinstance(self.inputs, FloatInputs) and (why := self.code.too_short(self.inputs.largest_count)):
            raise ValueError(f"code.slots: {why}")
        return self

    def _as_the_code_sends(self, inputs: CountInputs) -> CountInputs:
        """Counts within the reach of the code's slots, where the settings allow it."""
        code = self.code
        inputs = inputs.model_copy(
            update={"reach": code.reach if inputs.scale != "max" or code.overflow == "clip" else None}
        )
        # Where one spike sends the largest count too, there is nothing beyond it to round down to it.
        snaps = inputs.dead_zone and code.slots is not None and code.slots < inputs.largest_count
        return inputs.model_copy(update={"one_spike": code.slots if snaps else None})

    def overlaid(self, settings: Mapping[str, Any]) -> "LinearScheme":
        """The scheme with other settings on top; ValueError if they do not fit."""
        tree: Tree = self.model_dump(include=set(LinearScheme.model_fields))
        return LinearScheme.model_validate(overlay(tree, expand(settings, tree)))

    @property
    def clip(self) -> ClipSettings | None:
        """How the membrane potential is clipped, if it is."""
        return self.inputs.clip if isinstance(self.inputs, CountInputs | FloatInputs) else None

    @property
    def centers(self) -> bool:
        """Whether a constant part of an input is taken off first: a neuron's threshold is for all of it."""
        return not isinstance(self.inputs, NeuronInputs)

    @property
    def bits(self) -> str:
        """The scheme's name: `W-S`; with other codecs `W-3L`, `W-3LT2` (layers, time steps) or `W-T4`."""
        return f"{self.weights.name}-{self.inputs.name}"

    @property
    def sends_each_spike(self) -> bool:
        """Whether a count k is sent as |k| spikes, as SDLLM does."""
        inputs = self.inputs
        return self.code.kind == "unary" and isinstance(inputs, CountInputs) and inputs.spikes != "integer"

    @property
    def sending(self) -> str:
        """How its counts are sent, in a few words: `T'=8`, or `ramp code of 24 slots, counts up to 300`."""
        inputs, code = self.inputs, self.code
        if isinstance(inputs, NeuronInputs):
            return f"{inputs.codec} neurons, T={inputs.time_steps}"
        if code.kind == "unary" or isinstance(inputs, FloatInputs):
            return f"T'={inputs.virtual_steps}"
        slots = f" of {code.slots or inputs.largest_count} slots" if code.kind == "ramp" else ""
        clipped = isinstance(inputs, CountInputs) and inputs.scale == "max" and inputs.reach == inputs.largest_count
        cut = ", clipped there by the slots" if clipped else ""
        return f"{code.kind} code{slots}, counts up to {inputs.largest_count}{cut}"

    @property
    def encoding(self) -> tuple[object, ...]:
        """What two linears with the same input must agree on to share one encode."""
        return self.inputs, self.rotation, self.code, self.balance

    def overflow(self, in_features: int) -> str | None:
        """Why the accumulators of a linear with so many inputs could leave int32; None if they cannot.

        |acc| ≤ largest count · 2^(weight bits - 1) · in_features must stay below 2^31.
        """
        if self.weights.is_float or isinstance(self.inputs, FloatInputs):
            return None
        largest, weight = self.inputs.largest_count, self.weights.largest
        if largest * weight * in_features < ACCUMULATOR:
            return None
        return (
            f"{in_features} inputs with counts up to {largest} and {self.weights.bits}-bit weights can reach "
            f"{largest * weight * in_features:,}, beyond the accumulator's 2^31; use fewer bits or steps"
        )


class SpikeConfig(LinearScheme):
    """A whole conversion: the scheme of every linear, what is skipped and overridden, and that of keys and values."""

    short_names: ClassVar[tuple[str, ...]] = SHORT_NAMES

    kv: KvSettings | None = Field(None, description="keys and values as counts; none: they stay float")
    skip: tuple[str, ...] = Field((), description="name patterns or roles that stay as they are")
    overrides: tuple[Override, ...] = Field((), description="per-layer settings; the last match wins")

    @field_validator("skip", mode="before")
    @classmethod
    def _one_or_several(cls, skip: Any) -> Any:
        return (skip,) if isinstance(skip, str) else skip

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> "SpikeConfig":
        if self.kv is not None and isinstance(self.inputs, NeuronInputs):
            raise ValueError(f"kv_bits: with codec={self.inputs.codec} keys and values pass neurons of their own")
        for index, override in enumerate(self.overrides):
            try:
                scheme = self._alone_or_after(index)
            except ValueError as error:
                raise ValueError(f"override {override.pattern}: {sentence(error, LinearScheme)}") from None
            if isinstance(scheme.inputs, NeuronInputs) and scheme.inputs.time_steps != self.time_steps:
                raise ValueError(
                    f"override {override.pattern}: time_steps is {scheme.inputs.time_steps} there and {self.time_steps}"
                    " elsewhere, but all layers run the same streams"
                )
            if "quarot" in (scheme.rotation.kind, self.rotation.kind) and scheme.rotation.kind != self.rotation.kind:
                raise ValueError(
                    f"override {override.pattern}: rotation=quarot changes the norms, so it is all layers or none"
                )
        return self

    def _alone_or_after(self, index: int) -> LinearScheme:
        """The scheme that one override gives, or it and those before it: some make sense only together."""
        try:
            return self._with(self.overrides[index])
        except ValueError:
            try:
                return self._with(*self.overrides[: index + 1])
            except ValueError:
                return self._with(self.overrides[index])  # whose sentence says what is wrong

    def _with(self, *overrides: Override) -> LinearScheme:
        tree: Tree = self.model_dump(include=set(LinearScheme.model_fields))
        for override in overrides:
            tree = overlay(tree, expand(override.settings, tree))
        return LinearScheme.model_validate(tree)

    def outputs_of(self, role: str, scheme: LinearScheme) -> Outputs:
        """What becomes of a linear's outputs: keys and values may have salient channels, or pass a neuron."""
        if role not in KEYS_AND_VALUES:
            return "plain"
        if isinstance(scheme.inputs, NeuronInputs):
            return "neuron"
        return "salient" if self.kv is not None and self.kv.selects else "plain"

    @property
    def time_steps(self) -> int:
        """T: streams that the layers run."""
        return self.inputs.time_steps if isinstance(self.inputs, NeuronInputs) else 1

    def for_linear(self, name: str, role: str) -> LinearScheme | None:
        """The settings of one linear, or None if it is skipped.

        Raises:
            SpikeconvError: the overrides that match it contradict each other.
        """
        if any(matches(pattern, name, role) for pattern in self.skip):
            return None
        try:
            return self._with(*(o for o in self.overrides if matches(o.pattern, name, role)))
        except ValueError as error:
            raise SpikeconvError(f"The overrides of {name} do not fit: {sentence(error, LinearScheme)}") from None

    @classmethod
    def parse(cls, *layers: Mapping[str, Any]) -> "SpikeConfig":
        """Build from untrusted values (YAML, command line, `config.json`), later ones on top of earlier ones.

        Raises:
            SpikeconvError: one sentence that names the setting.
        """
        tree: Tree = {}
        try:
            for values in layers:
                tree = overlay(tree, expand(values, tree))
        except ValueError as error:
            raise SpikeconvError(str(error)) from None
        return parse_settings(cls, tree)
