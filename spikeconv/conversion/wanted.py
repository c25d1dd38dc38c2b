"""What of a conversion's settings is to be found on a text; read without torch, so that a mistake is told at once."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from spikeconv.config import Options
from spikeconv.config.base import Number

__all__ = ["Search"]

NAME = re.compile(r"(spikes|perplexity)=([0-9]*\.?[0-9]+)")


class Search(Options):
    """What is to be found on the calibration text; by default nothing is."""

    budget: str | None = Field(None, description="spikes=N per input, or perplexity=R times the float model's")
    auto: tuple[Literal["clip_ratio", "count_scale"], ...] = Field((), description="settings with the least error")
    spike_price: Number = Field(
        0, ge=0, description="λ: nats per token that a spike per input is worth, where settings are auto"
    )

    @field_validator("budget")
    @classmethod
    def _readable(cls, budget: str | None) -> str | None:
        if budget is not None and not NAME.fullmatch(budget):
            raise ValueError(f"must be spikes=N or perplexity=R, as in spikes=1.0, not {budget[:40]!r}")
        return budget

    @property
    def asked(self) -> bool:
        """Whether there is anything to find."""
        return self.budget is not None or bool(self.auto)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> "Search":
        if self.budget is not None and (self.auto or self.spike_price):
            raise ValueError("a budget chooses by itself; leave auto and spike_price out")
        if self.spike_price and not self.auto:
            raise ValueError("spike_price is for settings that are auto")
        return self

    @property
    def target(self) -> tuple[str, float] | None:
        """The name and the number of the budget."""
        match = None if self.budget is None else NAME.fullmatch(self.budget)
        return None if match is None else (match[1], float(match[2]))
