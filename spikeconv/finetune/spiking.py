"""Training through spikes: the model computes what its conversion will (SpikeLM; QAT for every other codec)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from spikeconv.calibrate.through_spikes import through_spikes
from spikeconv.calibrate.training_record import TRAINING_RECORD, TrainingRecord
from spikeconv.codecs import SpikeCounts
from spikeconv.config import SpikeConfig
from spikeconv.finetune.distillation import Distillation
from spikeconv.finetune.method import Measured
from spikeconv.finetune.results import StepResult
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.progress import Track

__all__ = ["SpikingTraining"]


class SpikingTraining:
    """A `Method`.

    Args:
        model: the float model; its linears are replaced here.
        config: settings of the conversion, as a plan holds them.
        settings: of the training.
        held: what was calibrated, by module name and buffer.
        distillation: from the float model, or None.
    """

    record = TRAINING_RECORD

    def __init__(
        self,
        model: Any,
        config: SpikeConfig,
        settings: FinetuneSettings,
        held: Mapping[str, Mapping[str, Tensor]],
        distillation: Distillation | None,
    ) -> None:
        self._config, self._settings, self._distillation = config, settings, distillation
        self._linears = through_spikes(model, config, held)
        self._added = {
            f"{path}.{name}"
            for path, module in model.named_modules()
            if any(module is linear for linear in self._linears.values())
            for name in module.state_dict()
            if name not in ("weight", "bias")
        }
        inputs = {id(linear.input): linear.input for linear in self._linears.values()}
        self._inputs = list(inputs.values())
        self._spikes: list[tuple[Tensor, int]] = []
        self._agreed = False

    def begin(self, track: Track) -> None:
        """Nothing: α is found from the first batch that is read."""

    def loss(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """Of the labels, and what the teacher adds."""
        if self._distillation is not None:
            self._distillation.begin()
        output = model(**batch)
        loss: Tensor = output.loss
        if self._distillation is not None:
            loss = loss + self._distillation.loss(batch, output.logits)
        for each in self._inputs:
            each.forget()
        return loss

    def measure(self, wanted: bool) -> None:
        """Whether spikes are counted."""
        self._spikes = []
        for each in self._inputs:
            each.encoder.observers = [self._count] if wanted else []

    def update(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Once all have read their first batch: one α for all processes. From then on it is a parameter, or stays."""
        if not self._agreed:
            self._agreed = True
            for linear in self._linears.values():
                for neurons in linear.neurons():
                    neurons.set(mean(neurons.input_alpha.detach()))

    def measured(self) -> Measured:
        """Mean |count| of an input over T': the firing rate where every count is sent as so many spikes."""
        rates = [counts / inputs for counts, inputs in self._spikes]
        return {"firing_rate": float(sum(rates)) / len(rates) if rates else None}

    def state(self) -> None:
        """Nothing: all of it is in the model's tensors."""

    def load(self, state: Any) -> None:
        """The inverse."""
        self._agreed = True

    def own_tensors(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without what was added for the training."""
        return {name: tensor for name, tensor in weights.items() if name not in self._added}

    def write_record(self, folder: Path, result: StepResult) -> None:
        """Write the settings of the conversion, and what was calibrated or learned for it."""
        record = TrainingRecord(
            config=self._config.model_dump(mode="json"),
            held={
                name: {kind: tensor.tolist() for kind, tensor in linear.calibrated().items()}
                for name, linear in self._linears.items()
            },
            training={**self._settings.model_dump(mode="json"), **asdict(result)},
        )
        (folder / TRAINING_RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _count(self, spikes: SpikeCounts) -> None:
        steps = max(1, self._config.inputs.virtual_steps // spikes.steps)
        self._spikes.append((spikes.counts.abs().sum(), spikes.counts.numel() * steps))
