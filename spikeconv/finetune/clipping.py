"""Rotational sparse training (SDLLM, appendix B): the inputs of some linears are clipped at a τ that is learned."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from spikeconv.calibrate.record import RECORD, ClipRecord
from spikeconv.calibrate.thresholds import clip_inputs, thresholds_of
from spikeconv.config import SpikeConfig
from spikeconv.finetune.method import Measured
from spikeconv.finetune.refit import refit
from spikeconv.finetune.results import StepResult
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.progress import Track

__all__ = ["ClippedTraining"]


class ClippedTraining:
    """A `Method`; rotations stand only where the clipping is, for the conversion rotates everything.

    Args:
        model: the float model, whose inputs are clipped from now on.
        config: says where and how, as a plan holds it.
        settings: of the training.
        windows: token ids [windows, settings.window].
    """

    record = RECORD

    def __init__(self, model: Any, config: SpikeConfig, settings: FinetuneSettings, windows: Tensor) -> None:
        self._model, self._config, self._settings, self._windows = model, config, settings, windows
        self.clips = clip_inputs(model, config)

    def begin(self, track: Track) -> None:
        """Refit the clipped linears."""
        if self._settings.refit_tokens:
            count = max(1, self._settings.refit_tokens // self._settings.window)
            refit(self._model, self.clips, self._windows[:count], track)

    def loss(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """Of the next token."""
        loss: Tensor = model(**batch).loss
        return loss

    def measure(self, wanted: bool) -> None:
        """Whether rates are measured."""
        for clip in self.clips:
            clip.measures_rate = wanted

    def update(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Move every τ."""
        for clip in self.clips:
            clip.update(self._settings.clip_momentum, mean)

    def measured(self) -> Measured:
        """τ, and the firing rate of what is clipped, with the default counts."""
        thresholds = list(thresholds_of(self.clips).values())
        rates = [clip.rate for clip in self.clips if clip.rate is not None]
        return {
            "threshold": sum(thresholds) / len(thresholds),
            "lowest_threshold": min(thresholds),
            "highest_threshold": max(thresholds),
            "firing_rate": sum(rates) / len(rates) if rates else None,
        }

    def state(self) -> list[Tensor | None]:
        """Every τ."""
        return [clip.threshold for clip in self.clips]

    def load(self, state: Any) -> None:
        """The inverse."""
        for clip, threshold in zip(self.clips, state, strict=True):
            clip.threshold = threshold

    def own_tensors(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of them: clips are no modules."""
        return weights

    def write_record(self, folder: Path, result: StepResult) -> None:
        """Write the record of the thresholds."""
        settings = self._settings
        record = ClipRecord(
            clip_mode=settings.clip_mode,
            clip_quantile=settings.clip_quantile,
            rotation=self._config.rotation.kind,
            seed=self._config.rotation.seed,
            thresholds=thresholds_of(self.clips),
            training={**settings.model_dump(mode="json"), **asdict(result)},
        )
        (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
