"""A conversion that writes nothing: the converted tensors are loaded at once, as if from a checkpoint."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spikeconv.conversion.conversion import checkpoint_config
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.produce import produce
from spikeconv.progress import Track, silent
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.base import Source
from spikeconv.sources.model import ModelSource
from spikeconv.sources.model_config import hf_config

__all__ = ["convert_in_memory", "converted_tensors"]


def converted_tensors(
    source: Source,
    plan: Plan,
    dtype: torch.dtype | None = None,
    *,
    track: Track = silent,
) -> dict[str, Tensor]:
    """All tensors of the converted checkpoint, by name; the arguments are those of `convert_in_memory`."""
    found: dict[str, Tensor] = {}
    balanced = plan.balanced(source, dtype)
    produce(balanced, plan, dtype, lambda unit, made: found.update(made.tensors), track=track)
    return found


def convert_in_memory(
    source: Source,
    plan: Plan,
    *,
    dtype: torch.dtype | None = None,
    track: Track = silent,
) -> PreTrainedModel:
    """Convert a source by a plan into a model in evaluation mode, on the device of the source if that is a model.

    Args:
        source: where weights come from; a model in memory shares nothing with the result.
        plan: what to convert and how (see `make_plan`).
        dtype: dtype of what stays float; None keeps that of the source.
        track: progress display.

    Raises:
        SpikeconvError: a weight is not finite.
    """
    tensors = converted_tensors(source, plan, dtype, track=track)
    config = hf_config(checkpoint_config(source, plan, dtype))
    model_class: Any = plan.family.auto_model(config.architectures)._model_mapping[type(config)]
    with quiet_transformers():
        model: Any = model_class.from_pretrained(None, config=config, state_dict=tensors, dtype=config.dtype)
    if isinstance(source, ModelSource):
        if not plan.family.encodes:
            model.generation_config = copy.deepcopy(source.model.generation_config)
        model = model.to(source.model.device)
    return model.eval()  # type: ignore[no-any-return]
