"""How weights are rounded."""

from typing import Literal

from pydantic import Field, field_validator

from spikeconv.config.base import FLOAT_BITS, Settings, Whole

__all__ = ["WeightSettings"]


class WeightSettings(Settings):
    """Integer weights with one scale per output channel, or float ones."""

    bits: Whole = Field(4, description="2 to 8, or 16 for float")
    method: Literal["rtn"] = Field("rtn", description="rtn: round to nearest")
    clip: Literal["mse", "none"] = Field("mse", description="search of the range per output channel, or min-max")

    @field_validator("bits")
    @classmethod
    def _possible(cls, bits: int) -> int:
        if bits != FLOAT_BITS and not 2 <= bits <= 8:
            raise ValueError(f"must be 2 to 8, or 16 for float, not {bits}")
        return bits

    @property
    def is_float(self) -> bool:
        """Whether the weights stay in floating point."""
        return self.bits == FLOAT_BITS

    @property
    def largest(self) -> int:
        """Bound on |integer weight|: 2^(b-1)."""
        return 1 << self.bits - 1
