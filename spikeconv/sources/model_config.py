"""The model that a `config.json` describes, as transformers builds it, without its weights.

A config is somebody else's file: a value that cannot be is a sentence, and no value makes the building take for ever.
"""

import math
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, find_family
from spikeconv.quiet import quiet_transformers

__all__ = ["build_empty", "build_unloaded", "hf_config", "layer_counts"]

LAYERS = "num_hidden_layers"
POSITIVE = (
    *(LAYERS, "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("vocab_size", "max_position_embeddings"),
)


def hf_config(config: dict[str, Any], most_layers: int | None = None) -> PretrainedConfig:
    """The transformers configuration of a supported `config.json`.

    Args:
        config: the parsed file.
        most_layers: how many layers there can be at most; each needs a tensor.

    Raises:
        SpikeconvError: the architecture is unknown or its package missing, a value is impossible, or transformers
            does not accept it.
    """
    family = find_family(config)
    if family.model_type not in CONFIG_MAPPING:
        raise SpikeconvError(f"{family.architecture} needs a package: pip install {family.package}")
    counts = layer_counts(config)
    for name in dict.fromkeys((*POSITIVE, *counts)):  # models divide by most of them
        if isinstance(size := config.get(name), int) and size < 1:
            raise SpikeconvError(f"config.json has {name} {size}, which no {family.architecture} can have.")
    for name in counts:
        layers = config.get(name)
        if most_layers is not None and isinstance(layers, int) and layers > most_layers:
            raise SpikeconvError(f"config.json asks for {layers} layers ({name}), but there are {most_layers} tensors.")
    try:
        with quiet_transformers():
            result = CONFIG_MAPPING[family.model_type].from_dict({**config, **family.fixed})
    except Exception as error:  # each model validates in its own way
        raise _impossible(family, error) from None
    _check_values(result)
    return result


def layer_counts(config: dict[str, Any]) -> list[str]:
    """The fields of a supported `config.json` that say how many layers there are.

    Raises:
        SpikeconvError: the architecture is unknown.
    """
    return list(dict.fromkeys((LAYERS, *(stack.count for stack in find_family(config).stacks))))


def build_empty(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration, on the meta device: names and shapes only.

    Raises:
        SpikeconvError: transformers cannot build it.
    """
    family = find_family(config.to_dict())
    try:
        with torch.device("meta"), quiet_transformers():
            model: PreTrainedModel = family.auto_model(config.architectures).from_config(config)
    except Exception as error:  # each model fails in its own way
        raise _impossible(family, error) from None
    return model


def build_unloaded(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration in float32: its parameters on the meta device, its buffers real (rotary tables)."""
    with init_empty_weights(include_buffers=False), quiet_transformers():
        auto_model = find_family(config.to_dict()).auto_model(config.architectures)
        model: PreTrainedModel = auto_model.from_config(config, dtype=torch.float32)
    model.eval().requires_grad_(False)
    return model


def _check_values(config: PretrainedConfig) -> None:
    """What models would report without the name of the field, or never."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise SpikeconvError(f"config.json has {name} {value}, which is no number to compute with.")
    theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1)
    if isinstance(theta, int | float) and not 0 < theta < math.inf:
        raise SpikeconvError(f"config.json has rope_theta {theta!r}; expected a number above 0.")
    pad, size = getattr(config, "pad_token_id", None), config.vocab_size
    if pad is not None and not -size <= pad < size:
        raise SpikeconvError(
            f"config.json has pad_token_id {pad}, outside the vocabulary of {size}; set it to null or to a token."
        )


def _impossible(family: Family, error: Exception) -> SpikeconvError:
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())
    if not isinstance(cause, ValueError | TypeError) or not reason:  # a KeyError says no more than the key
        reason = f"{type(cause).__name__}: {reason}"
    return SpikeconvError(f"config.json does not describe a {family.architecture}: {reason}")
