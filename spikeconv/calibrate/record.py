"""The record of a fine-tune: which linears are clipped, how, and at which τ; a conversion takes it over."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict

from spikeconv.config import Override, SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.untrusted import read_bounded

if TYPE_CHECKING:
    from spikeconv.sources.base import Source

__all__ = ["RECORD", "ClipRecord", "read_model"]

RECORD = "spikeconv-clip.json"
"""In every fine-tuned model."""
MOST_BYTES = 256 << 20


T = TypeVar("T", bound=BaseModel)


def read_model(kind: type[T], file: Path, hint: str) -> T:
    """What a JSON file in a fine-tuned model holds.

    Args:
        kind: of it.
        file: where it is.
        hint: what is expected there, where there is none.

    Raises:
        SpikeconvError: there is none, or it is damaged.
    """
    try:
        return kind.model_validate(json.loads(read_bounded(file, MOST_BYTES)))
    except (FileNotFoundError, NotADirectoryError):
        raise SpikeconvError(f"{file.parent} holds no {file.name}; {hint}.") from None
    except (OSError, ValueError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise SpikeconvError(f"{file} is damaged: {str(error).strip().splitlines()[0]}") from None


class ClipRecord(BaseModel):
    """What `RECORD` holds.

    Attributes:
        clip_mode, clip_quantile, rotation, seed: settings that the thresholds were found with.
        thresholds: τ by module name.
        training: how they were trained, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_mode: str
    clip_quantile: float
    rotation: str
    seed: int
    thresholds: dict[str, float]
    training: dict[str, Any] = {}

    @classmethod
    def read(cls, folder: Path) -> "ClipRecord":
        """The record in a fine-tuned model.

        Raises:
            SpikeconvError: there is none, or it is damaged.
        """
        return read_model(cls, folder / RECORD, "--clip-from takes what `spikeconv finetune` made")

    def apply(self, config: SpikeConfig, source: "Source") -> SpikeConfig:
        """A conversion's settings with these clips, in front of the user's overrides; its plan takes `thresholds`.

        Raises:
            SpikeconvError: the source lacks one of the linears, or the settings rotate otherwise.
        """
        names = set(source.names())
        for name in self.thresholds:
            if f"{name}.weight" not in names:
                raise SpikeconvError(f"{RECORD} has a threshold for {name}, which {source.path} does not hold.")
        for name, asked in (("rotation", config.rotation.kind), ("seed", config.rotation.seed)):
            found = getattr(self, name)
            if asked != found:
                raise SpikeconvError(f"The thresholds were found with {name}={found}, not {asked}; convert with that.")
        clip = {"inputs": {"clip": {"mode": self.clip_mode, "quantile": self.clip_quantile}}}
        ours = [Override(pattern=name, settings=clip) for name in self.thresholds]
        return SpikeConfig.parse({**config.model_dump(), "overrides": [*ours, *config.overrides]})
