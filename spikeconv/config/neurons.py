"""Inputs that pass a neuron with a state over time steps (SpikeLM): in a model of T streams, one for each step."""

from typing import Literal

from pydantic import Field

from spikeconv.config.base import Number, Settings, Whole

__all__ = ["ElasticInputs", "LifInputs", "NeuronInputs"]


class NeuronInputs(Settings):
    """What both neurons have."""

    time_steps: Whole = Field(1, ge=1, le=16, description="T: the layers run T streams, whose mean leaves the last")
    leak: Number = Field(0.25, ge=0, lt=1, description="β: share of the potential that is left after a step")

    @property
    def symmetric(self) -> bool:
        """There is no zero point."""
        return True

    @property
    def is_signed(self) -> bool:
        """Whether there are spikes of both signs."""
        return False

    @property
    def bits(self) -> int:
        """Bits of a spike."""
        return 2 if self.is_signed else 1

    @property
    def count_min(self) -> int:
        """The negative spike, if there is one."""
        return -int(self.is_signed)

    @property
    def count_max(self) -> int:
        """The positive spike."""
        return 1

    @property
    def largest_count(self) -> int:
        """One spike at most in a step."""
        return 1

    @property
    def virtual_steps(self) -> int:
        """T."""
        return self.time_steps


class ElasticInputs(NeuronInputs):
    """SpikeLM's neuron: a spike of either sign is worth α, and α is what a calibration batch says of the input."""

    codec: Literal["elastic"]
    k: Number = Field(2.0, gt=0, le=64, description="α = k · mean |m| of the calibration batch: the larger, the rarer")
    alpha: Literal["batch", "learned", "one"] = Field(
        "batch", description="batch: stays as calibrated; learned: trains with the weights; one: α is 1"
    )
    reset: Literal["code", "normalised"] = Field(
        "code",
        description="what a spike leaves of m, before the leak: m (α - s), as the public code has it; m (1 - |s| / α)",
    )
    spikes: Literal["ternary", "binary"] = Field("ternary", description="of both signs, or positive ones only")

    @property
    def is_signed(self) -> bool:
        """Whether there are spikes of both signs."""
        return self.spikes == "ternary"

    @property
    def name(self) -> str:
        """`E4`: T; `E4+` with positive spikes only."""
        return f"E{self.time_steps}" + ("" if self.is_signed else "+")


class LifInputs(NeuronInputs):
    """SpikeLM's baseline, a leaky integrate-and-fire neuron: a spike is 1 where the potential reaches 1."""

    codec: Literal["lif"]
    gradient: Literal["box", "arctan"] = Field(
        "box", description="of a spike, to train through: 1 for potentials from 0 to 1 (LIF-BERT), or arctan's"
    )

    @property
    def spikes(self) -> Literal["binary"]:
        """0 or 1."""
        return "binary"

    @property
    def name(self) -> str:
        """`L4`: T."""
        return f"L{self.time_steps}"
