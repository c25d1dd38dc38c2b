"""Keys and values as spike counts (SDLLM, section 4.4)."""

from typing import Literal

from pydantic import Field, model_validator

from spikeconv.config.base import Settings, Whole
from spikeconv.config.code import CodeSettings

__all__ = ["KvSettings"]


class KvSettings(Settings):
    """The counts of a cache."""

    bits: Whole = Field(ge=2, le=8, description="bits of a spike count")
    range: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="signed counts and ternary spikes, or counts from 0 and binary spikes"
    )
    group: Whole = Field(0, ge=0, description="inputs of a head that share a scale; 0: all of them")
    code: CodeSettings = Field(default_factory=CodeSettings, description="how a count is sent")

    @model_validator(mode="after")
    def _consistent(self) -> "KvSettings":
        if self.code.overflow == "clip":
            raise ValueError("code.overflow=clip is for the inputs of linears; keys and values keep all their counts")
        if why := self.code.too_short(self.largest_count):
            raise ValueError(why)
        return self

    @property
    def symmetric(self) -> bool:
        """Whether counts are signed (no zero point)."""
        return self.range == "symmetric"

    @property
    def largest_count(self) -> int:
        """Bound on |count|, T' of SDLLM: 2^(b-1) ternary steps, or 2^b - 1 binary ones."""
        return 1 << self.bits - 1 if self.symmetric else (1 << self.bits) - 1
