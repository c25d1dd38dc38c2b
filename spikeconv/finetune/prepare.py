"""From a source to a session that trains it: with clipped inputs, or through spikes."""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.data.labelled import Labelled, collate
from spikeconv.finetune.batches import Batches
from spikeconv.finetune.clipping import ClippedTraining
from spikeconv.finetune.distillation import Distillation
from spikeconv.finetune.folder import RunFolder
from spikeconv.finetune.session import Session
from spikeconv.finetune.settings import FinetuneSettings
from spikeconv.finetune.spiking import SpikingTraining
from spikeconv.loading import LoadedModel
from spikeconv.progress import Track
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float
from spikeconv.sources.model import ModelSource

__all__ = ["clipped_session", "load_to_train", "spiking_session"]


def load_to_train(opened: Source, examples: Sequence[Labelled] | None, seed: int) -> LoadedModel:
    """The float model in float32 on the CPU; for examples a classifier, whose new head, if it gets one, is the seed's.

    Raises:
        SpikeconvError: it cannot be loaded, or its family has no classifiers.
    """
    torch.manual_seed(seed)
    labels = None if examples is None else max(example.label for example in examples) + 1
    return load_float(opened, device="cpu", dtype="float32", labels=labels)


def clipped_session(
    loaded: LoadedModel,
    config: SpikeConfig,
    settings: FinetuneSettings,
    windows: Tensor,
    output: Path,
    accelerator: Accelerator,
) -> Session:
    """A session in which the inputs of some linears are clipped.

    Args:
        loaded: the float model, in float32.
        config: says where and how to clip, as a plan holds it.
        settings: of the training.
        windows: token ids [windows, settings.window].
        output: where the model will be; beside it stands the folder of the run.
        accelerator: accelerate's view of the processes.

    Raises:
        SpikeconvError: the text is too short.
    """
    batches = Batches(windows, settings, accelerator)
    method = ClippedTraining(loaded.model.to(accelerator.device), config, settings, windows)
    return Session(loaded.model, method, settings, batches, RunFolder(output), accelerator)


def spiking_session(
    loaded: LoadedModel,
    config: SpikeConfig,
    settings: FinetuneSettings,
    examples: Sequence[Labelled] | Tensor,
    output: Path,
    accelerator: Accelerator,
    track: Track,
) -> Session:
    """A session through the spikes of a conversion, with the float model as its teacher if it distils.

    Args:
        loaded: the float model, in float32; its linears are replaced.
        config: settings of the conversion.
        settings: of the training.
        examples: texts with labels, or windows of token ids [windows, settings.window].
        output: where the model will be; beside it stands the folder of the run.
        accelerator: accelerate's view of the processes.
        track: progress display.

    Raises:
        SpikeconvError: there are too few examples, or the model cannot be converted or trained like that.
    """
    model: Any = loaded.model
    if isinstance(examples, Tensor):
        batches = Batches(examples, settings, accelerator)
    else:
        batches = Batches(examples, settings, accelerator, partial(collate, loaded))
    source, held = ModelSource(model, loaded.tokenizer), dict[str, dict[str, Tensor]]()
    plan = make_plan(source, config)
    if plan.selects:
        plan = plan_conversion(source, config, track=track)
        held = {job.linear.name: plan.calibrated(job).tensors() for job in plan.jobs}
    distillation = None
    if settings.distill_logits or settings.distill_hidden:
        teacher = copy.deepcopy(model).to(accelerator.device)
        weights = settings.distill_logits, settings.distill_hidden
        distillation = Distillation(model, teacher, plan.config.time_steps, *weights)
    method = SpikingTraining(model, plan.config, settings, held, distillation)
    return Session(model, method, settings, batches, RunFolder(output), accelerator)
