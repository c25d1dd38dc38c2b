"""What is clipped in front of which linears, and how; read without torch, so that a mistake is told at once."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from spikeconv.config import ClipSettings, Options, Override, SpikeConfig, parse_settings
from spikeconv.config.base import Number, Whole
from spikeconv.families import Family, find_family

if TYPE_CHECKING:
    from spikeconv.sources.base import Source

__all__ = ["Clipping", "clip_roles"]

ATTENTION_ROLES = ("q", "k", "v", "r")
"""The default: the inputs of attention, as in SDLLM's table 3, or of RWKV's time mixing."""


class Clipping(Options):
    """What is clipped in front of which linears, and what τ is calibrated on; by default nothing is."""

    clip_quantile: Number | None = Field(None, description="share of the membrane potentials cut off")
    clip_mode: str | None = Field(None, description="what is left of the others")
    clip_roles: tuple[str, ...] = Field((), description="roles or name patterns; none: the inputs of attention")
    clip_text: Path | None = Field(None, description="a text file; none: BoolQ's passages")
    clip_tokens: Whole = Field(8192, ge=2, description="tokens of it to read")
    clip_from: Path | None = Field(None, description="a model that `finetune` made, which says all that instead")

    @field_validator("clip_roles", mode="before")
    @classmethod
    def _listed(cls, roles: Any) -> Any:
        return tuple(filter(None, map(str.strip, roles.split(",")))) if isinstance(roles, str) else roles

    @model_validator(mode="after")
    def _one_says_it(self) -> "Clipping":
        if self.clip_from is not None and self.asked:
            raise ValueError("--clip-from brings quantile, mode and roles; leave out their own options.")
        return self

    @property
    def asked(self) -> bool:
        """Whether something is to be clipped that `finetuned` does not say."""
        return self.clip_quantile is not None or self.clip_mode is not None or bool(self.clip_roles)

    def apply(self, config: SpikeConfig, source: "Source") -> SpikeConfig:
        """A conversion's settings with this clipping, unless it is a fine-tuned model's, in front of the overrides.

        Raises:
            SpikeconvError: it is impossible with the source or the settings.
        """
        if not self.asked:
            return config
        return clip_roles(config, find_family(source.config), self._mode, self._quantile, self.clip_roles)

    def check(self, config: SpikeConfig) -> None:
        """Check that it goes with a conversion's settings, whatever the model.

        Raises:
            SpikeconvError: it does not.
        """
        if self.asked:
            _clipped(config, self._mode, self._quantile, self.clip_roles or ("*",))

    @property
    def _mode(self) -> str:
        return self.clip_mode or "relu"

    @property
    def _quantile(self) -> float:
        return 0.5 if self.clip_quantile is None else self.clip_quantile


def clip_roles(config: SpikeConfig, family: Family, mode: str, quantile: float, roles: Iterable[str]) -> SpikeConfig:
    """A conversion's settings that clip the inputs of some roles (or name patterns); none: those of attention.

    They stand in front of the user's overrides.

    Raises:
        SpikeconvError: the mode or the quantile is impossible, or the inputs cannot be clipped.
    """
    chosen = tuple(roles) or tuple(role for role in ATTENTION_ROLES if role in family.roles)
    return _clipped(config, mode, quantile, chosen)


def _clipped(config: SpikeConfig, mode: str, quantile: float, patterns: Iterable[str]) -> SpikeConfig:
    clip = parse_settings(ClipSettings, {"mode": mode, "quantile": quantile}, "inputs.clip")
    ours = [Override(pattern=role, settings={"inputs": {"clip": clip.model_dump()}}) for role in patterns]
    return SpikeConfig.parse({**config.model_dump(), "overrides": [*ours, *config.overrides]})
