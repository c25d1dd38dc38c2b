"""What a conversion does, as one frozen object that drives the command line, YAML, `config.json` and tests.

A scheme is named `W-S`: W weight bits, S bits of one spike. `4-1.58` is SDLLM's main setting: 4-bit weights and
ternary spikes (log2 3 = 1.58 bits) unfolded over T' = 8 virtual steps (SDLLM, sections 4.1 to 4.3).
"""

from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spikeconv.errors import SpikeconvError

__all__ = ["FLOAT_BITS", "LinearScheme", "Override", "SpikeConfig", "parse_bits", "parse_settings"]

FLOAT_BITS = 16
"""Marks a side (weights or activations) that stays in floating point."""

Settings = TypeVar("Settings", bound=BaseModel)

SPIKE_NAMES = {"ternary": "1.58", "binary": "1"}


class LinearScheme(BaseModel):
    """How one linear is converted.

    Also accepts the short forms `bits` ("4-1.58") and `steps` (T'), which stand for `weight_bits`, `spikes` and
    `count_bits`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bits: int = Field(4, description="bits of a weight, 2 to 8, or 16 for float")
    spikes: Literal["ternary", "binary", "integer", "float"] = Field(
        "ternary", description="what one virtual step sends; integer = counts sent whole (step one only)"
    )
    count_bits: int = Field(4, description="bits of a spike count, 2 to 8, or 16 for float")
    count_range: Literal["standard", "full"] = Field(
        "standard", description="standard: [-2^(b-1), 2^(b-1)-1]; full: all of -T'..T'"
    )
    clip_ratio: float = Field(0.9, gt=0, le=1, description="share of a token's largest value that is kept")
    clip_mode: Literal["none", "relu", "shifted", "two-sided"] = Field(
        "none", description="what is cut off at τ: u·1[u > τ], max(u - τ, 0), or sign(u)·max(|u| - τ, 0)"
    )
    clip_quantile: float = Field(0.5, ge=0, lt=1, description="share of the membrane potentials (of |u|) below τ")
    clip_threshold: float = Field(0.0, description="τ itself, of one linear; calibrated or trained")
    rotation: Literal["gamma-sqp", "quarot", "none"] = Field("gamma-sqp", description="what is rotated")
    weight_clip: Literal["mse", "none"] = Field("mse", description="search of the weight range per output channel")
    # Of the seeds 0 to 3 the best on the embedded model; docs/benchmarks/rotation.md shows how far they spread.
    codec: Literal["count", "multihead", "repetition"] = Field("count", description="how an input becomes spikes")
    layers: int = Field(3, ge=1, le=7, description="multihead: decimal digits, one layer of spikes each")
    integer_digits: int = Field(2, ge=0, le=7, description="multihead: how many of them stand before the point")
    digit_rounding: Literal["truncate", "round"] = Field("truncate", description="multihead: the digits cut off")
    time_steps: int = Field(1, ge=1, le=127, description="multihead, repetition: time steps T")
    threshold_quantile: float = Field(1.0, gt=0, le=1, description="repetition: share of a token's |x| below θ")
    seed: int = Field(2, ge=0, lt=2**32, description="seed of the random signs in the rotation")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = expand_short_forms(values)
        if values.get("codec", "count") != "count":  # as in SpikeRWKV: float weights, nothing rotated
            values = {"weight_bits": FLOAT_BITS, "rotation": "none", **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "LinearScheme":
        for field in ("weight_bits", "count_bits"):
            bits = getattr(self, field)
            if bits != FLOAT_BITS and not 2 <= bits <= 8:
                raise ValueError(f"{field} must be 2 to 8, or 16 for float, not {bits}")
        if (self.spikes == "float") != (self.count_bits == FLOAT_BITS):
            raise ValueError("spikes=float and count_bits=16 go together")
        if self.codec != "count" and self.spikes != "ternary":
            raise ValueError(f"codec={self.codec} sends signed spikes: its bits are W-1.58")
        if self.clip_mode != "none" and self.codec != "count":
            raise ValueError(f"clip_mode={self.clip_mode} belongs to codec=count, not {self.codec}")
        if self.clip_mode != "none" and self.rotation == "quarot":
            raise ValueError(f"clip_mode={self.clip_mode} needs rotation=gamma-sqp or none: QuaRot's u lacks γ")
        if self.integer_digits > self.layers:
            raise ValueError(
                f"integer_digits is {self.integer_digits}, but there are only {self.layers} layers of digits"
            )
        if self.spikes == "binary" and self.count_range == "full":
            raise ValueError("count_range=full needs signed counts; binary spikes already use all of 0..T'")
        return self

    @property
    def symmetric(self) -> bool:
        """Whether counts are signed (no zero point)."""
        return self.spikes != "binary"

    @property
    def count_min(self) -> int:
        """Smallest spike count."""
        return -(1 << self.count_bits - 1) if self.symmetric else 0

    @property
    def count_max(self) -> int:
        """Largest spike count."""
        if not self.symmetric:
            return (1 << self.count_bits) - 1
        return (1 << self.count_bits - 1) - (self.count_range == "standard")

    @property
    def virtual_steps(self) -> int:
        """T' of SDLLM, eq. 10 and 17: 2^(b-1) ternary steps, 2^b - 1 binary steps, 1 for counts sent whole.

        For `multihead` and `repetition` the product T · l of SpikeRWKV, eq. 5.
        """
        if self.codec != "count":
            return self.time_steps * (self.layers if self.codec == "multihead" else 1)
        if self.spikes == "ternary":
            return 1 << self.count_bits - 1
        return self.count_max if self.spikes == "binary" else 1

    @property
    def bits(self) -> str:
        """The scheme's name: `W-S`; with other codecs `W-3L`, `W-3LT2` (layers, time steps) or `W-T4`."""
        if self.codec != "count":
            steps = f"T{self.time_steps}" if self.codec == "repetition" or self.time_steps > 1 else ""
            return f"{self.weight_bits}-" + (f"{self.layers}L" if self.codec == "multihead" else "") + steps
        return f"{self.weight_bits}-{SPIKE_NAMES.get(self.spikes, self.count_bits)}"

    @property
    def encoding(self) -> "tuple[object, ...]":
        """What two linears with the same input must agree on to share one encode."""
        return tuple(getattr(self, field) for field in LinearScheme.model_fields if not field.startswith("weight_"))


class Override(BaseModel):
    """Other settings for the linears whose name matches `pattern` (shell wildcards) or whose role equals it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str
    settings: dict[str, str | int | float]


class SpikeConfig(LinearScheme):
    """A whole conversion: the scheme of every linear, what is skipped and overridden, and that of keys and values.

    Also accepts the short form `kv_steps` (T'), which stands for `kv_bits`.
    """

    kv_bits: int = Field(FLOAT_BITS, description="bits of a spike count of keys and values, 2 to 8, or 16 for float")
    kv_range: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="signed counts and ternary spikes, or counts from 0 and binary spikes"
    )
    kv_group: int = Field(0, ge=0, description="inputs of a head that share a scale; 0: all of them")
    skip: tuple[str, ...] = Field((), description="name patterns or roles that stay as they are")
    overrides: tuple[Override, ...] = Field((), description="per-layer settings; the last match wins")

    @model_validator(mode="before")
    @classmethod
    def _kv_steps(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kv_steps") is None:
            return values
        spikes = "binary" if values.get("kv_range") == "asymmetric" else "ternary"
        steps = values["kv_steps"]
        if not str(steps).isdecimal():
            raise ValueError(f"kv_steps must be a positive whole number, not {steps!r}")
        rest = {key: value for key, value in values.items() if key != "kv_steps"}
        return {**rest, "kv_bits": _count_bits(spikes, int(steps))}

    @model_validator(mode="after")
    def _kv_bits_are_valid(self) -> "SpikeConfig":
        if self.kv_bits != FLOAT_BITS and not 2 <= self.kv_bits <= 8:
            raise ValueError(f"kv_bits must be 2 to 8, or 16 for float, not {self.kv_bits}")
        return self

    @property
    def kv(self) -> LinearScheme | None:
        """The counts of keys and values; None where they stay float."""
        if self.kv_bits == FLOAT_BITS:
            return None
        spikes = "ternary" if self.kv_range == "symmetric" else "binary"
        return LinearScheme(spikes=spikes, count_bits=self.kv_bits, seed=self.seed)

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> "SpikeConfig":
        for override in self.overrides:
            try:
                scheme = self._with(override)
            except ValueError as error:
                raise ValueError(f"override {override.pattern}: {_sentence(error)}") from None
            if "quarot" in (scheme.rotation, self.rotation) and scheme.rotation != self.rotation:
                raise ValueError(
                    f"override {override.pattern}: rotation=quarot changes the norms, so it is all layers or none"
                )
        return self

    def _with(self, *overrides: Override) -> LinearScheme:
        values = self.model_dump(include=set(LinearScheme.model_fields))
        for override in overrides:
            values.update(expand_short_forms(dict(override.settings), values["spikes"]))
        return LinearScheme(**values)

    def for_linear(self, name: str, role: str) -> LinearScheme | None:
        """The settings of one linear, or None if it is skipped."""
        if any(_matches(pattern, name, role) for pattern in self.skip):
            return None
        return self._with(*(o for o in self.overrides if _matches(o.pattern, name, role)))

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "SpikeConfig":
        """Build from untrusted values (command line, YAML, `config.json`).

        Raises:
            SpikeconvError: one sentence that names the field.
        """
        return parse_settings(cls, values)


def parse_settings(settings: type[Settings], values: dict[str, Any]) -> Settings:
    """Settings of a kind from untrusted values.

    Raises:
        SpikeconvError: one sentence that names the field.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise SpikeconvError(_sentence(error)) from None


def _sentence(error: ValueError) -> str:
    """What is wrong first, in one line: `field: message`."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    known = ", ".join(sorted({*SpikeConfig.model_fields, "bits", "steps"}))
    hint = f" (known fields: {known})" if first["type"] == "extra_forbidden" else ""
    message = first["msg"].removeprefix("Value error, ") + hint
    return f"{where}: {message}" if where else message


def _matches(pattern: str, name: str, role: str) -> bool:
    return pattern == role or fnmatchcase(name, pattern)


def expand_short_forms(values: dict[str, Any], spikes: str = "ternary") -> dict[str, Any]:
    """Replace `bits` and `steps` in a mapping of settings by the fields they stand for.

    `spikes` is what `steps` refers to where the mapping does not say it.
    """
    values = dict(values)
    bits, steps = values.pop("bits", None), values.pop("steps", None)
    if steps is not None and values.get("codec", "count") != "count":
        raise ValueError("steps belong to codec=count; the other codecs have time_steps")
    if steps is not None and not str(steps).isdecimal():
        raise ValueError(f"steps must be a positive whole number, not {steps!r}")
    if bits is not None:
        values = {**parse_bits(str(bits), None if steps is None else int(steps)), **values}
    elif steps is not None:
        spikes = values.get("spikes", spikes)
        if spikes not in SPIKE_NAMES:
            raise ValueError(f"steps needs ternary or binary spikes, not {spikes}")
        values["count_bits"] = _count_bits(spikes, int(steps))
    return values


def parse_bits(bits: str, steps: int | None = None) -> dict[str, Any]:
    """Fields for a scheme name `W-S` and a number of virtual steps T'.

    S is 1.58 (ternary, T' = 2^(W-1) unless `steps`), 1 (binary, T' = 2^W - 1), 2 to 8 (integer counts) or 16 (float).
    With float weights (W = 16) counts have 4 bits unless `steps` says otherwise.

    Raises:
        ValueError: not a scheme name, or a T' that no count width gives.
    """
    weight, _, spike = bits.partition("-")
    if not weight.isdigit() or spike not in {"1", "1.58", "16", *"2345678"}:
        raise ValueError(f"bits must look like 4-1.58, 4-1, 4-4 or 16-16, not {bits!r}")
    weight_bits = int(weight)
    if spike not in SPIKE_NAMES.values():
        if steps is not None:
            raise ValueError(f"steps needs ternary (1.58) or binary (1) spikes, not {bits!r}")
        return {
            "weight_bits": weight_bits,
            "spikes": "float" if spike == "16" else "integer",
            "count_bits": int(spike),
        }
    spikes = "binary" if spike == "1" else "ternary"
    default = weight_bits if weight_bits != FLOAT_BITS else 4
    return {
        "weight_bits": weight_bits,
        "spikes": spikes,
        "count_bits": default if steps is None else _count_bits(spikes, steps),
    }


def _count_bits(spikes: str, steps: int) -> int:
    bits = (steps + 1).bit_length() - 1 if spikes == "binary" else steps.bit_length()
    reached = 2**bits - 1 if spikes == "binary" else 2 ** (bits - 1)
    if steps < 1 or reached != steps or not 2 <= bits <= 8:
        choices = [2**b - 1 if spikes == "binary" else 2 ** (b - 1) for b in range(2, 9)]
        raise ValueError(f"steps with {spikes} spikes must be one of {choices}, not {steps}")
    return bits
