"""The kinds of norm that stand in front of linears, and what a rotation may do with each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line reads families before it needs torch
    from torch import Tensor

__all__ = ["LAYER", "RMS", "RMS_PLUS_ONE", "NormKind"]


@dataclass(frozen=True)
class NormKind:
    """One kind.

    Attributes:
        name: `rms`: γ x / RMS(x); `rms-plus-one`: (1 + γ) x / RMS(x); `layer`: LayerNorm, γ (x - μ) / σ + β.
        epsilon: the field of the model's config that holds ε of an RMSNorm.
    """

    name: Literal["rms", "rms-plus-one", "layer"]
    epsilon: str | None = None

    @property
    def in_encoder(self) -> bool:
        """Whether an encoder can compute it, as part of its own operation."""
        return self.name == "rms"

    @property
    def neutral(self) -> float:
        """The stored weight that scales by one."""
        return 0.0 if self.name == "rms-plus-one" else 1.0

    def weight(self, gamma: "Tensor") -> "Tensor":
        """The stored weight [n] that scales by γ: the inverse of `gamma`."""
        return gamma - 1 if self.name == "rms-plus-one" else gamma

    def gamma(self, weight: "Tensor") -> "Tensor":
        """What a stored weight [n] scales by."""
        return 1 + weight if self.name == "rms-plus-one" else weight


RMS = NormKind("rms", "rms_norm_eps")
RMS_PLUS_ONE = NormKind("rms-plus-one", "rms_norm_eps")
LAYER = NormKind("layer")
