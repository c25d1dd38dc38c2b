"""Keys and values as spike counts (SDLLM, section 4.4)."""

from typing import Literal

from pydantic import Field, model_validator

from spikeconv.config.base import Number, Settings, Whole
from spikeconv.config.code import CodeSettings

__all__ = ["KvSettings"]


class KvSettings(Settings):
    """The counts of a cache."""

    bits: Whole = Field(ge=2, le=8, description="bits of a spike count")
    range: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="signed counts and ternary spikes, or counts from 0 and binary spikes"
    )
    low_share: Number | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the channels that are not salient; the others have a bit more (SpikeLLM)",
    )
    group: Whole = Field(0, ge=0, description="inputs of a head that share a scale; 0: all of them")
    code: CodeSettings = Field(default_factory=CodeSettings, description="how a count is sent")

    @model_validator(mode="after")
    def _consistent(self) -> "KvSettings":
        if self.code.overflow == "clip":
            raise ValueError("code.overflow=clip is for the inputs of linears; keys and values keep all their counts")
        if self.low_share is not None and (self.symmetric or self.group or self.bits > 7):
            raise ValueError("low_share needs range=asymmetric, group=0 and at most 7 bits")
        if why := self.code.too_short(self.largest_count):
            raise ValueError(why)
        return self

    @property
    def symmetric(self) -> bool:
        """Whether counts are signed (no zero point)."""
        return self.range == "symmetric"

    @property
    def largest_count(self) -> int:
        """Bound on |count|, T' of SDLLM: 2^(b-1) ternary steps, or 2^b - 1 binary ones; of salient channels' counts."""
        return 1 << self.bits - 1 if self.symmetric else (1 << self.bits + self.selects) - 1

    @property
    def selects(self) -> bool:
        """Whether some channels have a bit more."""
        return self.low_share is not None
