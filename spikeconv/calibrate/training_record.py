"""The record of a model that was trained through spikes: the conversion that it was trained for."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from spikeconv.calibrate.record import read_model
from spikeconv.config import SpikeConfig

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TRAINING_RECORD", "TrainingRecord", "check_trained", "note_training"]

TRAINING_RECORD = "spikeconv-training.json"
"""In every model that was trained through spikes."""
WHOLE = ("input_salient",)
"""What is uint8 of what was calibrated; everything else is float32."""


class TrainingRecord(BaseModel):
    """What `TRAINING_RECORD` holds.

    Attributes:
        config: settings of the conversion.
        held: what was calibrated or learned for it, by module name and buffer.
        training: how it was trained, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    config: dict[str, Any]
    held: dict[str, dict[str, list[float]]]
    training: dict[str, Any] = {}

    @classmethod
    def read(cls, folder: Path) -> "TrainingRecord":
        """The record in a trained model.

        Raises:
            SpikeconvError: there is none, or it is damaged.
        """
        hint = "--as-trained is for what `spikeconv finetune` trained through spikes"
        return read_model(cls, folder / TRAINING_RECORD, hint)

    def settings(self) -> SpikeConfig:
        """The conversion's."""
        return SpikeConfig.parse(self.config)

    def tensors(self, kind: str) -> "dict[str, Tensor]":
        """What is held in the buffers of a name, by module name."""
        import torch  # the command line checks a record without it

        dtype = torch.uint8 if kind in WHOLE else torch.float32
        return {name: torch.tensor(each[kind], dtype=dtype) for name, each in self.held.items() if kind in each}


def check_trained(folder: Path) -> None:
    """Check, before anything slow, that a folder holds a record, if it is one here.

    Raises:
        SpikeconvError: it holds none.
    """
    if folder.is_dir() and not (folder / TRAINING_RECORD).is_file():
        TrainingRecord.read(folder)  # which says so


def note_training(folder: Path, as_trained: bool, note: Callable[[str], None]) -> TrainingRecord | None:
    """The record of a source, if it is asked for; a source that has one and is converted otherwise is noted.

    Raises:
        SpikeconvError: it is asked for, and there is none, or it is damaged.
    """
    if as_trained:
        return TrainingRecord.read(folder)
    if (folder / TRAINING_RECORD).is_file():
        note(f"{folder.name} was trained through spikes; --as-trained converts it with the settings of that.")
    return None
