"""Fine-tuning: AdamW on a float model that a `Method` makes ready for spikes.

accelerate brings the processes: one,
several, FSDP or DeepSpeed, as its configuration says (`accelerate launch -m spikeconv finetune …`).
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.finetune.publish import publish
from spikeconv.finetune.results import FinetuneSummary, StepResult
from spikeconv.finetune.session import Session
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.progress import Track, silent

__all__ = ["Course", "finetune", "make_accelerator"]


@dataclass(frozen=True)
class Course:
    """How far a run goes, and how it begins; two runs of one fine-tune may differ in it.

    Attributes:
        steps: optimizer steps in all, those before a resumption included; 0 only refits.
        save_every: steps between two states to resume from.
        log_every: steps between two lines of the log and calls of `on_step`.
        resume: go on with an earlier run.
        force: start anew over an earlier run.
    """

    steps: int
    save_every: int = 50
    log_every: int = 10
    resume: bool = False
    force: bool = False


def make_accelerator(settings: FinetuneSettings, cpu: bool) -> Accelerator:
    """accelerate's view of the processes that this one belongs to.

    Raises:
        SpikeconvError: they are asked to share the model in a way that accelerate has not where they compute.
    """
    getLogger("accelerate").setLevel("ERROR")  # it warns of tied weights whenever a state is saved
    mixed = "bf16" if settings.precision == "bfloat16" else "no"
    try:
        accelerator = Accelerator(mixed_precision=mixed, gradient_accumulation_steps=settings.accumulate, cpu=cpu)
    except (ImportError, ValueError) as error:  # DeepSpeed is not installed, say
        raise SpikeconvError(
            f"accelerate cannot do what the launcher's configuration asks for: {reason_of(error)}"
        ) from error
    for kind, name in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")):
        asked = os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true")
        if asked and accelerator.distributed_type != kind:  # accelerate would replicate the model instead, silently
            raise SpikeconvError(
                f"The launcher's configuration asks for {name}, which accelerate has on GPUs only, and this process is "
                f"to train on {accelerator.device.type}; leave it out, or run where the GPUs are."
            )
    return accelerator


def finetune(
    session: Session,
    tokenizer: Any,
    output: Path,
    course: Course,
    *,
    track: Track = silent,
    on_step: Callable[[StepResult], None] = lambda result: None,
) -> FinetuneSummary:
    """Train a float model by a session's method, and write it as an ordinary checkpoint with that method's record.

    Args:
        session: where it stands; beside `output` stands the folder of the run.
        tokenizer: the model's.
        output: the directory to create.
        course: how far to go.
        track: progress display.
        on_step: told of logged steps, in the main process.

    Raises:
        SpikeconvError: an earlier run is in the way, has other settings or more steps, or the loss is no number any
            more (the last state stays).
    """
    start = time.perf_counter()

    def note() -> None:
        if session.accelerator.is_main_process and session.result is not None:
            session.folder.log(asdict(session.result))
            on_step(session.result)

    if course.resume:
        session.resume(course.steps)
    else:
        session.begin(course.force, track)
        note()
    for step in track(range(session.step + 1, course.steps + 1), "fine-tuning", course.steps - session.step):
        logged = step % course.log_every == 0 or step == course.steps
        session.advance(measure=logged)
        if logged:
            note()
        if step % course.save_every == 0 or step == course.steps:
            session.save()
    assert session.result is not None
    publish(session, output, tokenizer)
    measured = {key: value for key, value in asdict(session.result).items() if key in FinetuneSummary.__annotations__}
    return FinetuneSummary(output=str(output), steps=session.step, seconds=time.perf_counter() - start, **measured)
