"""Rotational sparse training (SDLLM, appendix B): AdamW on a float model whose attention inputs are clipped.

Rotations stand only where the clipping is; the conversion rotates everything. accelerate brings the processes: one,
several, FSDP or DeepSpeed, as its configuration says (`accelerate launch -m spikeconv finetune …`).
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.config import SpikeConfig
from spikeconv.convert.sink import Scratch
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import LoadedModel
from spikeconv.finetune.clips import RECORD, ClipRecord, clip_inputs, thresholds_of
from spikeconv.finetune.run import FinetuneSettings, RunFolder
from spikeconv.nn.clip import MembraneClip
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


class _Progress:
    """How far a run is: what accelerate saves and loads beside weights, optimizer and random numbers."""

    def __init__(self, clips: list[MembraneClip]) -> None:
        self.step = 0
        self._clips = clips

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "thresholds": [clip.threshold for clip in self._clips]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for clip, threshold in zip(self._clips, state["thresholds"], strict=True):
            clip.threshold = threshold


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
        steps: optimizer steps in all, those before a resumption included.
        accelerator: from `make_accelerator`.
        save_every: steps between two states to resume from.
        log_every: steps between two lines of the log and calls of `on_step`.
        resume: go on with an earlier run.
        force: start anew over an earlier run.
        track: progress display.
        on_step: told of logged steps, in the main process.

    Raises:
        SpikeconvError: the text is too short, an earlier run is in the way or has other settings, or the loss is no
            number any more (the last state stays).
    """
    run, main = RunFolder(output), accelerator.is_main_process
    group = settings.batch_size * settings.accumulate * accelerator.num_processes
    if len(windows) < group:
        raise SpikeconvError(
            f"The text has {len(windows)} windows of {settings.window} tokens, less than one step of {group}; "
            "give a longer text, or lower --batch-size, --accumulate or --window."
        )
    with accelerator.main_process_first():
        if main:
            run.begin(settings, resume=resume, force=force)
    clips = clip_inputs(loaded.model, config)
    model, optimizer = _prepare(accelerator, loaded.model, settings)
    progress = _Progress(clips)
    accelerator.register_for_checkpointing(progress)
    if resume:
        accelerator.load_state(str(run.state))
        if main:
            run.forget_after(progress.step)
    start, first, result = time.perf_counter(), progress.step, None
    for step in track(range(first + 1, steps + 1), "fine-tuning", steps - first):
        logged = step % log_every == 0 or step == steps
        for clip in clips:
            clip.measures_rate = logged
        losses = []
        for batch in range(settings.accumulate):
            with accelerator.accumulate(model):
                ids = _batch(windows, settings, (step - 1) * settings.accumulate + batch, accelerator)
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                losses.append(accelerator.reduce(loss.detach(), "mean"))
                _check(losses[-1], step, run)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
                    _check(norm, step, run)
                optimizer.step()
                optimizer.zero_grad()
        for clip in clips:
            clip.update(settings.clip_momentum, lambda quantile: accelerator.reduce(quantile, "mean"))
        progress.step = step
        if logged:
            speed = (step - first) * group * settings.window / (time.perf_counter() - start)
            result = _result(step, group * settings.window, losses, norm, clips, speed)
            if main:
                run.log(asdict(result))
                on_step(result)
        if step % save_every == 0 or step == steps:
            _save_state(accelerator, run)
    if result is None:
        raise SpikeconvError(f"{run.path} has {progress.step} steps already; raise --steps to go on.")
    _save_model(accelerator, model, loaded, config, settings, result, clips, output)
    return FinetuneSummary(
        output=str(output),
        steps=result.step,
        tokens=result.tokens,
        loss=result.loss,
        threshold=result.threshold,
        firing_rate=result.firing_rate,
        seconds=time.perf_counter() - start,
    )


def _prepare(accelerator: Accelerator, model: Any, settings: FinetuneSettings) -> tuple[Any, Any]:
    model.train()
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if accelerator.state.deepspeed_plugin is not None:  # it would ask the data loader, and there is none
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = settings.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    prepared: tuple[Any, Any] = accelerator.prepare(model, optimizer)
    return prepared


def _batch(windows: Tensor, settings: FinetuneSettings, batch: int, accelerator: Accelerator) -> Tensor:
    """Token ids [batch_size, window] of the so many-th batch of this process.

    Each epoch has its own order, which follows from the seed, so that nothing about it needs to be saved.
    """
    first = (batch * accelerator.num_processes + accelerator.process_index) * settings.batch_size
    picked = []
    for position in range(first, first + settings.batch_size):
        epoch, index = divmod(position, len(windows))
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(settings.seed + epoch))
        picked.append(windows[order[index]])
    return torch.stack(picked).to(accelerator.device)


def _check(value: Tensor, step: int, run: RunFolder) -> None:
    if not math.isfinite(float(value)):
        kept = f"the last good state is in {run.state}" if run.state.exists() else "no state had been saved yet"
        raise SpikeconvError(f"The loss or its gradient became {float(value)} in step {step} and training stopped; "
                             f"{kept}. Try a lower --learning-rate.")  # fmt: skip


def _result(
    step: int, step_tokens: int, losses: list[Tensor], norm: Any, clips: list[MembraneClip], speed: float
) -> StepResult:
    thresholds = list(thresholds_of(clips).values())
    rates = [clip.rate for clip in clips if clip.rate is not None]
    return StepResult(
        step=step,
        tokens=step * step_tokens,
        loss=float(torch.stack(losses).mean()),
        gradient_norm=float(norm),
        threshold=sum(thresholds) / len(thresholds),
        lowest_threshold=min(thresholds),
        highest_threshold=max(thresholds),
        firing_rate=sum(rates) / len(rates) if rates else None,
        tokens_per_second=speed,
    )


def _save_state(accelerator: Accelerator, run: RunFolder) -> None:
    if accelerator.is_main_process:
        shutil.rmtree(run.scratch, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(run.scratch))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.keep_state()
    accelerator.wait_for_everyone()


def _save_model(
    accelerator: Accelerator,
    model: Any,
    loaded: LoadedModel,
    config: SpikeConfig,
    settings: FinetuneSettings,
    result: StepResult,
    clips: list[MembraneClip],
    output: Path,
) -> None:
    weights = accelerator.get_state_dict(model)  # gathered from all processes, so all must ask
    if not accelerator.is_main_process:
        return
    record = ClipRecord(
        clip_mode=settings.clip_mode,
        clip_quantile=settings.clip_quantile,
        rotation=config.rotation,
        seed=config.seed,
        thresholds=thresholds_of(clips),
        training={**settings.model_dump(mode="json"), **asdict(result)},
    )
    with Scratch(output, RECORD, force=True) as target, quiet_transformers():
        accelerator.unwrap_model(model).save_pretrained(target.scratch, state_dict=weights)
        loaded.tokenizer.save_pretrained(target.scratch)
        (target.scratch / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        target.publish()
