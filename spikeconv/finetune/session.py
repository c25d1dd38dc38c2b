"""A fine-tune in progress, in one process of perhaps several: steps, and the states to go on from."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.disk import plain_errors
from spikeconv.errors import SpikeconvError
from spikeconv.finetune.batches import Batches
from spikeconv.finetune.folder import RunFolder
from spikeconv.finetune.method import Method
from spikeconv.finetune.results import StepResult
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.progress import Track

__all__ = ["Session"]

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped."""


class Session:
    """A model, a way to train it and an optimizer; accelerate saves the rest through the `state_dict`s.

    Args:
        model: in float32, as `method` has made it ready.
        method: the way.
        settings: of the training.
        batches: what is read.
        folder: where states are kept.
        accelerator: accelerate's view of the processes.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        settings: FinetuneSettings,
        batches: Batches,
        folder: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.folder, self.accelerator = settings, folder, accelerator
        self.method, self._batches = method, batches
        self.model: Any = model.to(accelerator.device).train()
        self.step = 0
        self.result: StepResult | None = None
        self._tokens = 0
        self._optimizer: Any = None
        self._started = (0, time.perf_counter())

    def begin(self, force: bool, track: Track) -> None:
        """Start anew, and measure the loss before any training."""
        self._in_turn(lambda: self.folder.begin(self.settings, force=force))
        self.method.begin(track)
        self._prepare()
        self.method.measure(True)
        with torch.no_grad():
            loss = self._mean(self.method.loss(self.model, self._batches.take(0)))
        self._check(loss)
        self.method.update(self._mean)
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
        self._started = (self._tokens, time.perf_counter())

    def advance(self, measure: bool) -> None:
        """One optimizer step; what was measured is in `result`."""
        self.method.measure(measure)
        losses, norm = [], torch.zeros(())
        for batch in range(self.settings.accumulate):
            with self.accelerator.accumulate(self.model):
                given = self._batches.take(self.step * self.settings.accumulate + batch)
                self._tokens += int(given["input_ids"].numel()) * self.accelerator.num_processes
                loss = self.method.loss(self.model, given)
                losses.append(self._mean(loss.detach()))
                self._check(losses[-1])
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
                    self._check(norm)
                self._optimizer.step()
                self._optimizer.zero_grad()
        self.method.update(self._mean)
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
        return {"step": self.step, "tokens": self._tokens, "result": result, "method": self.method.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.step, self._tokens, self.result = state["step"], state["tokens"], StepResult(**state["result"])
        self.method.load(state["method"])

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

    def _check(self, value: Tensor) -> None:
        if not math.isfinite(float(value)):
            state = self.folder.state
            kept = f"the last good state is in {state}" if state.exists() else "no state had been saved yet"
            raise SpikeconvError(
                f"The loss or its gradient became {float(value)} in step {self.step + 1} and training stopped; {kept}. "
                "Try a lower --learning-rate."
            )

    def _result(self, loss: Tensor, norm: Tensor) -> StepResult:
        first, start = self._started
        return StepResult(
            step=self.step,
            tokens=self._tokens,
            loss=float(loss),
            gradient_norm=float(norm),
            tokens_per_second=(self._tokens - first) / (time.perf_counter() - start),
            **self.method.measured(),
        )
