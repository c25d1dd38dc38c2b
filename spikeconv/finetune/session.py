"""A fine-tune in progress, in one process of perhaps several: steps, and the states to go on from."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.calibrate.thresholds import clip_inputs, thresholds_of
from spikeconv.config import SpikeConfig
from spikeconv.disk import plain_errors
from spikeconv.errors import SpikeconvError
from spikeconv.finetune.batches import Batches
from spikeconv.finetune.folder import RunFolder
from spikeconv.finetune.refit import refit
from spikeconv.finetune.results import StepResult
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.loading import LoadedModel
from spikeconv.progress import Track

__all__ = ["Session"]

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped."""


class Session:
    """A model, its clips and an optimizer; accelerate saves `step`, thresholds and `result` through the `state_dict`s.

    Args:
        loaded: the float model, in float32.
        config: says where and how to clip, as a plan holds it.
        settings: of the training.
        windows: token ids [windows, settings.window].
        folder: where states are kept.
        accelerator: accelerate's view of the processes.

    Raises:
        SpikeconvError: the text is too short.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: SpikeConfig,
        settings: FinetuneSettings,
        windows: Tensor,
        folder: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.windows, self.folder, self.accelerator = settings, windows, folder, accelerator
        self._batches = Batches(windows, settings, accelerator)
        self.model: Any = loaded.model.to(accelerator.device).train()
        self.clips = clip_inputs(self.model, config)
        self.step = 0
        self.result: StepResult | None = None
        self._optimizer: Any = None
        self._started = (0, time.perf_counter())

    def begin(self, force: bool, track: Track) -> None:
        """Start anew: refit, and measure the loss before any training."""
        self._in_turn(lambda: self.folder.begin(self.settings, force=force))
        if self.settings.refit_tokens:
            count = max(1, self.settings.refit_tokens // self.settings.window)
            refit(self.model, self.clips, self.windows[:count], track)
        self._prepare()
        self._measure_rates(True)
        with torch.no_grad():
            loss = self._mean(self.model(**self._batches.take(0)).loss)
        self._check(loss)
        self._update_thresholds()
        self.result = self._result(loss, torch.zeros(()))

    def resume(self, steps: int) -> None:
        """Go on with what the folder holds."""
        self._in_turn(lambda: self.folder.check(self.settings))
        self._prepare()
        try:
            self.accelerator.load_state(str(self.folder.state))
        except Exception as error:  # every file in it has a reader of its own
            raise SpikeconvError(f"{self.folder.state} cannot be read ({error}); --force starts anew.") from None
        if self.step > steps:
            raise SpikeconvError(f"{self.folder.path} has {self.step} steps already, more than --steps {steps}.")
        self._in_turn(lambda: self.folder.forget_after(self.step))
        self._started = (self.step, time.perf_counter())

    def advance(self, measure: bool) -> None:
        """One optimizer step; what was measured is in `result`."""
        self._measure_rates(measure)
        losses, norm = [], torch.zeros(())
        for batch in range(self.settings.accumulate):
            with self.accelerator.accumulate(self.model):
                loss = self.model(**self._batches.take(self.step * self.settings.accumulate + batch)).loss
                losses.append(self._mean(loss.detach()))
                self._check(losses[-1])
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
                    self._check(norm)
                self._optimizer.step()
                self._optimizer.zero_grad()
        self._update_thresholds()
        self.step += 1
        if measure:
            self.result = self._result(torch.stack(losses).mean(), norm)

    def save(self) -> None:
        """Replace the state to resume from."""
        self._in_turn(self.folder.clear_scratch)
        with plain_errors(self.folder.scratch):
            self.accelerator.save_state(str(self.folder.scratch))
        self.accelerator.wait_for_everyone()
        self._in_turn(self.folder.keep_state)

    def state_dict(self) -> dict[str, Any]:
        """What accelerate saves beside weights, optimizer and random numbers."""
        result = None if self.result is None else asdict(self.result)
        return {"step": self.step, "result": result, "thresholds": [clip.threshold for clip in self.clips]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.step, self.result = state["step"], StepResult(**state["result"])
        for clip, threshold in zip(self.clips, state["thresholds"], strict=True):
            clip.threshold = threshold

    def _prepare(self) -> None:
        if self.settings.gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        if (plugin := self.accelerator.state.deepspeed_plugin) is not None:  # it would ask the data loader, and none is
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.settings.batch_size
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.model, self._optimizer = self.accelerator.prepare(self.model, optimizer)
        self.accelerator.register_for_checkpointing(self)

    def _in_turn(self, action: Callable[[], None]) -> None:
        """Act in the main process, while the others wait."""
        if self.accelerator.is_main_process:
            action()
        self.accelerator.wait_for_everyone()

    def _mean(self, value: Tensor) -> Tensor:
        """Over the processes."""
        result: Tensor = self.accelerator.reduce(value, "mean")
        return result

    def _measure_rates(self, wanted: bool) -> None:
        for clip in self.clips:
            clip.measures_rate = wanted

    def _update_thresholds(self) -> None:
        for clip in self.clips:
            clip.update(self.settings.clip_momentum, self._mean)

    def _check(self, value: Tensor) -> None:
        if not math.isfinite(float(value)):
            state = self.folder.state
            kept = f"the last good state is in {state}" if state.exists() else "no state had been saved yet"
            raise SpikeconvError(
                f"The loss or its gradient became {float(value)} in step {self.step + 1} and training stopped; {kept}. "
                "Try a lower --learning-rate."
            )

    def _result(self, loss: Tensor, norm: Tensor) -> StepResult:
        thresholds = list(thresholds_of(self.clips).values())
        rates = [clip.rate for clip in self.clips if clip.rate is not None]
        step_tokens = self._batches.step_windows * self.settings.window
        first, start = self._started
        return StepResult(
            step=self.step,
            tokens=self.step * step_tokens,
            loss=float(loss),
            gradient_norm=float(norm),
            threshold=sum(thresholds) / len(thresholds),
            lowest_threshold=min(thresholds),
            highest_threshold=max(thresholds),
            firing_rate=sum(rates) / len(rates) if rates else None,
            tokens_per_second=(self.step - first) * step_tokens / (time.perf_counter() - start),
        )
