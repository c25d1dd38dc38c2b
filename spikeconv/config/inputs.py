"""How the input of a linear becomes spikes: one model per codec, each with the numbers that follow from it.

`bits` of every model is the width of the counts that it gives, 16 where there are none; `spikes` says what one step
sends.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spikeconv.config.base import FLOAT_BITS, Number, Settings, Whole
from spikeconv.config.neurons import ElasticInputs, LifInputs

__all__ = [
    "INPUTS",
    "ClipSettings",
    "CountInputs",
    "FloatInputs",
    "GifInputs",
    "InputSettings",
    "MultiheadInputs",
    "RepetitionInputs",
    "SpikingInputs",
]


class ClipSettings(Settings):
    """Membrane clipping, SDLLM's quantile-smoothed ReLU; τ itself is calibrated, a tensor of the checkpoint."""

    mode: Literal["relu", "shifted", "two-sided"] = Field(
        "relu", description="what is left beyond τ: u·1[u > τ], max(u - τ, 0), or sign(u)·max(|u| - τ, 0)"
    )
    quantile: Number = Field(0.5, ge=0, lt=1, description="share of the membrane potentials (of |u|) below τ")


class CountInputs(Settings):
    """SDLLM's counts of a width, spread over a token's range."""

    codec: Literal["count"] = "count"
    bits: Whole = Field(4, ge=1, le=14, description="bits of a spike count; one only with binary spikes")
    spikes: Literal["ternary", "binary", "integer"] = Field(
        "ternary", description="what one virtual step sends; integer = counts sent whole (step one only)"
    )
    range: Literal["standard", "full"] = Field(
        "standard", description="standard: [-2^(b-1), 2^(b-1)-1]; full: all of -T'..T'"
    )
    scale: Literal["max", "rms", "mean"] = Field(
        "max",
        description="max: a token's largest value lands on the largest count; rms, mean: a count of one is `step` times"
        " its RMS, or its mean magnitude, or more where its largest value would not be reached",
    )
    step: Number | None = Field(None, gt=0, le=4, description="δ of scale=rms or mean; none elsewhere")
    dead_zone: Number = Field(
        0, ge=0, le=4, description="θ: what is below θ times the token's RMS (with scale=mean its mean) is not sent"
    )
    clip_ratio: Number = Field(0.9, gt=0, le=1, description="share of a token's largest value that is kept")
    clip: ClipSettings | None = Field(None, description="membrane clipping, or none")
    reach: Whole | None = Field(
        None, ge=1, description="bound that the code's slots set on counts; follows from the code"
    )
    one_spike: Whole | None = Field(None, ge=1, description="largest count of one spike; follows from the code")

    @model_validator(mode="before")
    @classmethod
    def _follows(cls, values: Any) -> Any:
        """What goes with rms and mean unless it is said otherwise: δ, and no clipping but at what the slots reach."""
        if isinstance(values, dict) and values.get("scale") in [*STEPS]:
            step = values.get("step")
            step = STEPS[values["scale"]] if step is None else step
            return {**values, "step": step, "clip_ratio": values.get("clip_ratio", 1)}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "CountInputs":
        if self.bits == 1 and self.spikes != "binary":
            raise ValueError("bits of 1 needs spikes=binary: a signed count has at least 2")
        if self.spikes == "binary" and self.range == "full":
            raise ValueError("range=full needs signed counts; binary spikes already use all of 0..T'")
        if self.step is not None and self.scale == "max":
            raise ValueError(
                "step is a setting of scale=rms and mean; with scale=max it follows from the token's largest value"
            )
        if self.spikes == "binary" and (self.scale != "max" or self.dead_zone):
            raise ValueError("scale=rms, scale=mean and dead_zone need signed counts, not binary spikes")
        return self

    @property
    def symmetric(self) -> bool:
        """Whether counts are signed (no zero point)."""
        return self.spikes != "binary"

    @property
    def count_min(self) -> int:
        """Smallest spike count."""
        if self.scale != "max":
            return -self.count_max
        low = -(1 << self.bits - 1) if self.symmetric else 0
        return low if self.reach is None else max(low, -self.reach)

    @property
    def count_max(self) -> int:
        """Largest spike count: of the width, or with rms and mean all that the slots reach, as far as they do."""
        if self.scale != "max":
            return self.reach or 1 << self.bits - 1
        high = (1 << self.bits - 1) - (self.range == "standard") if self.symmetric else (1 << self.bits) - 1
        return high if self.reach is None else min(high, self.reach)

    @property
    def largest_count(self) -> int:
        """Bound on |count|."""
        return max(-self.count_min, self.count_max)

    @property
    def virtual_steps(self) -> int:
        """T' of SDLLM, eq. 10 and 17: 2^(b-1) ternary steps, 2^b - 1 binary steps, 1 for counts sent whole."""
        return 1 if self.spikes == "integer" else self.largest_count

    @property
    def name(self) -> str:
        """S of a scheme's name W-S."""
        return {"ternary": "1.58", "binary": "1"}.get(self.spikes, str(self.bits))


class MultiheadInputs(Settings):
    """SpikeRWKV's decimal digits, one layer of spikes each."""

    codec: Literal["multihead"]
    layers: Whole = Field(3, ge=1, le=7, description="decimal digits")
    integer_digits: Whole = Field(2, ge=0, le=7, description="how many of them stand before the point")
    rounding: Literal["truncate", "round"] = Field("truncate", description="what happens to the digits cut off")
    time_steps: Whole = Field(1, ge=1, le=127, description="time steps T")

    @model_validator(mode="after")
    def _consistent(self) -> "MultiheadInputs":
        if self.integer_digits > self.layers:
            raise ValueError(
                f"integer_digits is {self.integer_digits}, but there are only {self.layers} layers of digits"
            )
        return self

    @property
    def symmetric(self) -> bool:
        """Digits carry the sign of their input."""
        return True

    @property
    def spikes(self) -> Literal["ternary"]:
        """Spikes are signed."""
        return "ternary"

    @property
    def bits(self) -> int:
        """Bits of a decimal digit."""
        return 4

    @property
    def count_min(self) -> int:
        """Smallest digit."""
        return -9

    @property
    def count_max(self) -> int:
        """Largest digit."""
        return 9

    @property
    def largest_count(self) -> int:
        """Bound on |digit|."""
        return 9

    @property
    def virtual_steps(self) -> int:
        """The product T · l of SpikeRWKV, eq. 5."""
        return self.time_steps * self.layers

    @property
    def name(self) -> str:
        """`3L`, or with several time steps `3LT2`."""
        return f"{self.layers}L" + (f"T{self.time_steps}" if self.time_steps > 1 else "")


class RepetitionInputs(Settings):
    """A constant input repeated over T steps to an integrate-and-fire neuron."""

    codec: Literal["repetition"]
    time_steps: Whole = Field(1, ge=1, le=127, description="time steps T")
    threshold_quantile: Number = Field(1.0, gt=0, le=1, description="share of a token's |x| below θ")

    @property
    def symmetric(self) -> bool:
        """Spikes carry the sign of their input."""
        return True

    @property
    def spikes(self) -> Literal["ternary"]:
        """Spikes are signed."""
        return "ternary"

    @property
    def bits(self) -> int:
        """Bits of a signed count up to T."""
        return max(2, self.time_steps.bit_length() + 1)

    @property
    def count_min(self) -> int:
        """Smallest spike count."""
        return -self.time_steps

    @property
    def count_max(self) -> int:
        """Largest spike count."""
        return self.time_steps

    @property
    def largest_count(self) -> int:
        """Bound on |count|: T."""
        return self.time_steps

    @property
    def virtual_steps(self) -> int:
        """T."""
        return self.time_steps

    @property
    def name(self) -> str:
        """`T4`."""
        return f"T{self.time_steps}"


class GifInputs(Settings):
    """SpikeLLM's counts: n bits, and a bits more in the channels that a calibration text found salient."""

    codec: Literal["gif"]
    bits: Whole = Field(4, ge=2, le=8, description="n, bits of a count")
    salient_bits: Whole = Field(1, ge=1, le=4, description="a, bits more of a salient channel's; T = 2^a steps")
    low_share: Number = Field(0.9, gt=0, lt=1, description="share of the channels that are not salient (low_p)")
    mode: Literal["steps", "plain"] = Field(
        "steps",
        description="steps: a salient count goes in T steps of n bits, which cut its top values off; plain: whole",
    )

    @property
    def symmetric(self) -> bool:
        """Counts have a zero point."""
        return False

    @property
    def spikes(self) -> Literal["integer"]:
        """A step sends an integer."""
        return "integer"

    @property
    def count_min(self) -> int:
        """Smallest count."""
        return 0

    @property
    def count_max(self) -> int:
        """Largest count of a channel that is not salient."""
        return (1 << self.bits) - 1

    @property
    def salient_levels(self) -> int:
        """Largest count of the salient channels' range."""
        return (1 << self.bits + self.salient_bits) - 1

    @property
    def largest_count(self) -> int:
        """Largest count of all: what the steps reach, or the salient channels' range."""
        return self.virtual_steps * self.count_max if self.mode == "steps" else self.salient_levels

    @property
    def virtual_steps(self) -> int:
        """T = 2^a, of a salient channel; the others need one."""
        return 1 << self.salient_bits

    @property
    def mean_steps(self) -> float:
        """Steps of a channel in the mean: low_p + (1 - low_p) T."""
        return self.low_share + (1 - self.low_share) * self.virtual_steps

    @property
    def name(self) -> str:
        """`4G2`: n, and T."""
        return f"{self.bits}G{self.virtual_steps}"


class FloatInputs(Settings):
    """Inputs that stay float: rotated, clipped, not rounded."""

    codec: Literal["float"]
    clip: ClipSettings | None = Field(None, description="membrane clipping, or none")

    @property
    def symmetric(self) -> bool:
        """There is no zero point."""
        return True

    @property
    def spikes(self) -> Literal["float"]:
        """None are sent."""
        return "float"

    @property
    def bits(self) -> int:
        """16."""
        return FLOAT_BITS

    @property
    def virtual_steps(self) -> int:
        """One, and no spike in it."""
        return 1

    @property
    def name(self) -> str:
        """S of a scheme's name W-S."""
        return str(FLOAT_BITS)


STEPS = {"rms": 0.085, "mean": 1 / 3}
"""δ unless it is said: about one spike per input of a rotated model on a ramp of 24 slots (docs/temporal-codes.md);
SpikingBrain's (its released code: a threshold of mean |x| / 3)."""

SpikingInputs = CountInputs | MultiheadInputs | RepetitionInputs | GifInputs | ElasticInputs | LifInputs
InputSettings = Annotated[SpikingInputs | FloatInputs, Field(discriminator="codec")]

INPUTS: dict[str, type[Settings]] = {
    "count": CountInputs,
    "multihead": MultiheadInputs,
    "repetition": RepetitionInputs,
    "gif": GifInputs,
    "elastic": ElasticInputs,
    "lif": LifInputs,
    "float": FloatInputs,
}
"""The models by `codec`."""
