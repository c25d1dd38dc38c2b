"""Rotational sparse training (SDLLM, appendix B): AdamW on a float model whose attention inputs are clipped.

Rotations stand only where the clipping is; the conversion rotates everything. accelerate brings the processes: one,
several, FSDP or DeepSpeed, as its configuration says (`accelerate launch -m spikeconv finetune …`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.checkpoint.writer import Scratch
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.finetune.clips import RECORD, ClipRecord, clip_inputs, thresholds_of
from spikeconv.finetune.refit import refit
from spikeconv.finetune.run import FinetuneSettings, RunFolder
from spikeconv.loading import LoadedModel
from spikeconv.progress import Track, silent
from spikeconv.quiet import quiet_transformers

__all__ = ["FinetuneSummary", "StepResult", "finetune", "make_accelerator"]

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped."""


@dataclass(frozen=True)
class StepResult:
    """One logged step.

    Attributes:
        step: from 1.
        tokens: read so far, by all processes.
        loss: mean over the step, in nats.
        gradient_norm: before it was clipped.
        threshold: mean τ.
        lowest_threshold, highest_threshold: over the layers.
        firing_rate: mean over the clipped layers, of the latest batch, with the default counts.
        tokens_per_second: since the run began, or went on.
    """

    step: int
    tokens: int
    loss: float
    gradient_norm: float
    threshold: float
    lowest_threshold: float
    highest_threshold: float
    firing_rate: float | None
    tokens_per_second: float


@dataclass(frozen=True)
class FinetuneSummary:
    """What came out: the model's folder, and the last logged step."""

    output: str
    steps: int
    tokens: int
    loss: float
    threshold: float
    firing_rate: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def make_accelerator(settings: FinetuneSettings, cpu: bool) -> Accelerator:
    """accelerate's view of the processes that this one belongs to."""
    getLogger("accelerate").setLevel("ERROR")  # it warns of tied weights whenever a state is saved
    mixed = "bf16" if settings.precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=mixed, gradient_accumulation_steps=settings.accumulate, cpu=cpu)


def finetune(
    loaded: LoadedModel,
    config: SpikeConfig,
    settings: FinetuneSettings,
    windows: Tensor,
    output: Path,
    *,
    steps: int,
    accelerator: Accelerator,
    save_every: int = 50,
    log_every: int = 10,
    resume: bool = False,
    force: bool = False,
    track: Track = silent,
    on_step: Callable[[StepResult], None] = lambda result: None,
) -> FinetuneSummary:
    """Train a float model with clipped inputs, and write it as an ordinary checkpoint with a record of its τ.

    Args:
        loaded: the float model, in float32.
        config: says where and how to clip, as a plan holds it.
        settings: of the training.
        windows: token ids [windows, settings.window].
        output: the directory to create; beside it stands the folder of the run.
        steps: optimizer steps in all, those before a resumption included; 0 only refits.
        accelerator: from `make_accelerator`.
        save_every: steps between two states to resume from.
        log_every: steps between two lines of the log and calls of `on_step`.
        resume: go on with an earlier run.
        force: start anew over an earlier run.
        track: progress display.
        on_step: told of logged steps, in the main process.

    Raises:
        SpikeconvError: the text is too short, an earlier run is in the way, has other settings or more steps, or the
            loss is no number any more (the last state stays).
    """
    start = time.perf_counter()
    run = _Run(loaded, config, settings, windows, RunFolder(output), accelerator)

    def note() -> None:
        if accelerator.is_main_process and run.result is not None:
            run.folder.log(asdict(run.result))
            on_step(run.result)

    if resume:
        run.resume(steps)
    else:
        run.begin(force, track)
        note()
    for step in track(range(run.step + 1, steps + 1), "fine-tuning", steps - run.step):
        logged = step % log_every == 0 or step == steps
        run.advance(measure=logged)
        if logged:
            note()
        if step % save_every == 0 or step == steps:
            run.save()
    assert run.result is not None
    run.publish(output, loaded.tokenizer, config)
    measured = {key: value for key, value in asdict(run.result).items() if key in FinetuneSummary.__annotations__}
    return FinetuneSummary(output=str(output), steps=run.step, seconds=time.perf_counter() - start, **measured)


class _Run:
    """A fine-tune in progress; accelerate saves `step`, the thresholds and `result` through its two `state_dict`s."""

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
        self.step_windows = settings.batch_size * settings.accumulate * accelerator.num_processes
        if len(windows) < self.step_windows:
            raise SpikeconvError(
                f"The text has {len(windows)} windows of {settings.window} tokens, less than one step of "
                f"{self.step_windows}; give a longer text, or lower --batch-size, --accumulate or --window."
            )
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
            loss = self._mean(self.model(**self._batch(0)).loss)
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
                loss = self.model(**self._batch(self.step * self.settings.accumulate + batch)).loss
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
        self.accelerator.save_state(str(self.folder.scratch))
        self.accelerator.wait_for_everyone()
        self._in_turn(self.folder.keep_state)

    def publish(self, output: Path, tokenizer: Any, config: SpikeConfig) -> None:
        """Write the model, its tokenizer and the record of its thresholds."""
        weights = self.accelerator.get_state_dict(self.model)  # gathered from all processes, so all must ask
        if not self.accelerator.is_main_process or self.result is None:
            return
        record = ClipRecord(
            clip_mode=self.settings.clip_mode,
            clip_quantile=self.settings.clip_quantile,
            rotation=config.rotation,
            seed=config.seed,
            thresholds=thresholds_of(self.clips),
            training={**self.settings.model_dump(mode="json"), **asdict(self.result)},
        )
        with Scratch(output, RECORD, force=True) as target, quiet_transformers():
            self.accelerator.unwrap_model(self.model).save_pretrained(target.scratch, state_dict=weights)
            tokenizer.save_pretrained(target.scratch)
            (target.scratch / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            target.publish()

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

    def _batch(self, batch: int) -> dict[str, Any]:
        """What the model is given in the so many-th batch of this process.

        Each epoch has its own order, which follows from the seed, so that nothing about it needs to be saved.
        """
        size = self.settings.batch_size
        first = (batch * self.accelerator.num_processes + self.accelerator.process_index) * size
        picked = []
        for position in range(first, first + size):
            epoch, index = divmod(position, len(self.windows))
            generator = torch.Generator().manual_seed(self.settings.seed + epoch)
            picked.append(self.windows[torch.randperm(len(self.windows), generator=generator)[index]])
        ids = torch.stack(picked).to(self.accelerator.device)
        return {"input_ids": ids, "labels": ids, "use_cache": False}

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
        step_tokens = self.step_windows * self.settings.window
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
