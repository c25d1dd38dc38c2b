"""How weights are rounded."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from spikeconv.config.base import FLOAT_BITS, Number, Settings, Whole

__all__ = ["WeightSettings"]


CALIBRATED = ("gptq", "gptaq", "qronos")
SIGNS = {"sign": "1", "ternary": "1.58"}
"""Methods that keep signs, with what they are called in the name of a scheme."""


class WeightSettings(Settings):
    """Integer weights with one scale per output channel, or float ones."""

    bits: Whole = Field(4, description="2 to 8, or 16 for float")
    method: Literal["rtn", "gptq", "gptaq", "qronos", "sign", "ternary"] = Field(
        "rtn",
        description="rtn: round to nearest; gptq, gptaq, qronos: for the inputs that a calibration text gives; sign, "
        "ternary: ±1 or -1, 0, 1 times a mean magnitude, in two bits",
    )
    clip: Literal["mse", "none"] = Field("mse", description="search of the range per output channel, or min-max")
    damping: Number = Field(0.1, ge=0, description="added to the Hessian's diagonal, as a share of its mean")
    importance: Literal["equal", "gradient"] = Field(
        "equal", description="what calibration tokens count: all the same, or as much as the loss asks of their outputs"
    )
    residual: bool = Field(False, description="calibrated o and down also make up for what the residual stream lacks")
    bias_correction: Literal["none", "mean"] = Field(
        "none", description="a bias that brings the mean output on the calibration text back, or none"
    )

    @field_validator("bits")
    @classmethod
    def _possible(cls, bits: int) -> int:
        if bits != FLOAT_BITS and not 2 <= bits <= 8:
            raise ValueError(f"must be 2 to 8, or 16 for float, not {bits}")
        return bits

    @model_validator(mode="after")
    def _consistent(self) -> "WeightSettings":
        if self.keeps_signs and self.bits != 2:
            raise ValueError(f"method={self.method} is stored in 2 bits, not {self.bits}")
        if self.bias_correction != "none" and self.method not in CALIBRATED:
            raise ValueError("bias_correction needs a calibrated method: gptq, gptaq or qronos")
        if self.importance != "equal" and self.method not in CALIBRATED:
            raise ValueError("importance needs a calibrated method: gptq, gptaq or qronos")
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether they are rounded for the inputs that a text gives."""
        return self.method in CALIBRATED and not self.is_float

    @property
    def keeps_signs(self) -> bool:
        """Whether nothing but signs is kept of them: sign, ternary."""
        return self.method in SIGNS

    @property
    def sees_float(self) -> bool:
        """Whether what the float network computes is looked at too."""
        return self.is_calibrated and (self.method != "gptq" or self.residual or self.has_bias)

    @property
    def has_bias(self) -> bool:
        """Whether a linear with such weights has a bias, whatever its source has."""
        return self.is_calibrated and self.bias_correction != "none"

    @property
    def is_float(self) -> bool:
        """Whether the weights stay in floating point."""
        return self.bits == FLOAT_BITS

    @property
    def largest(self) -> int:
        """Bound on |integer weight|: 2^(b-1)."""
        return 1 << self.bits - 1

    @property
    def name(self) -> str:
        """W of a scheme's name W-S."""
        return SIGNS.get(self.method, str(self.bits))
