"""The temporal code: how a spike count is sent over time steps (see `spikeconv.codes`)."""

from typing import Literal

from pydantic import Field, model_validator

from spikeconv.config.base import Settings, Whole

__all__ = ["CodeSettings", "too_few_slots"]


class CodeSettings(Settings):
    """Which integer is sent is the codec's business; how it is sent, this."""

    kind: Literal["unary", "binary", "signed-digit", "ramp"] = Field(
        "unary",
        description="unary: |k| spikes of weight one; binary: the digits of |k|, the highest first; signed-digit: its"
        " non-adjacent form; ramp: the fewest spikes, each worth the slots that are left",
    )
    slots: Whole | None = Field(None, ge=1, le=64, description="slots of ramp; none: one for each of the largest count")
    overflow: Literal["error", "clip"] = Field(
        "error", description="counts that the slots do not reach: refuse the settings, or cut the counts off"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "CodeSettings":
        if self.slots is not None and self.kind != "ramp":
            raise ValueError(f"slots are a setting of ramp; {self.kind} has as many as the largest count takes")
        if self.overflow == "clip" and self.slots is None:
            raise ValueError("overflow=clip needs ramp with a number of slots; with others every count is reached")
        return self

    @property
    def reach(self) -> int | None:
        """The largest count of a number of slots: n + … + 2 + 1; None where any count is reached."""
        return None if self.slots is None else self.slots * (self.slots + 1) // 2

    def too_short(self, largest: int) -> str | None:
        """Why counts up to `largest` cannot be sent; None if they can."""
        return None if self.slots is None else too_few_slots(self.slots, largest)


def too_few_slots(slots: int, largest: int) -> str | None:
    """Why a ramp of so many slots does not reach `largest`, with n + … + 2 + 1 at most; None if it does."""
    reach = slots * (slots + 1) // 2
    if reach >= largest:
        return None
    least = next(n for n in range(slots, largest + 1) if n * (n + 1) // 2 >= largest)
    return f"ramp with {slots} slots reaches counts up to {reach}, not {largest}; take at least {least} slots"
