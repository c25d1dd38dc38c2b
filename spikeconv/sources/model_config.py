"""The model that a `config.json` describes, as transformers builds it, without its weights.

A config is somebody else's file: a value that cannot be is a sentence, and no value makes the building take for ever.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, find_family
from spikeconv.quiet import quiet_transformers

__all__ = ["build_empty", "hf_config"]

LAYERS = "num_hidden_layers"
TOKENS = ("pad_token_id",)
"""Fields that hold the row of the embeddings which stays zero."""


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
    layers = config.get(LAYERS)
    if most_layers is not None and isinstance(layers, int) and layers > most_layers:
        raise SpikeconvError(f"config.json asks for {layers} layers ({LAYERS}), but there are {most_layers} tensors.")
    try:
        with quiet_transformers():
            result = CONFIG_MAPPING[family.model_type].from_dict({**config, **family.fixed})
    except Exception as error:  # each model validates in its own way
        raise _impossible(family, error) from None
    _check_values(family, result)
    return result


def build_empty(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration, on the meta device: names and shapes only.

    Raises:
        SpikeconvError: transformers cannot build it.
    """
    family = find_family(config.to_dict())
    try:
        with torch.device("meta"), quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each model fails in its own way
        raise _impossible(family, error) from None
    return model


def _check_values(family: Family, config: PretrainedConfig) -> None:
    """What the models divide by or use as an index, and would report without the name of the field."""
    for name in (LAYERS, "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads"):
        value = getattr(config, name, 1)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise SpikeconvError(f"config.json has {name} {value!r}, which no {family.architecture} can have.")
    for name in TOKENS:
        value = getattr(config, name, None)
        if value is not None and not (isinstance(value, int) and -config.vocab_size <= value < config.vocab_size):
            raise SpikeconvError(
                f"config.json has {name} {value!r}, outside the vocabulary of {config.vocab_size} tokens; "
                "set it to null or to one of them."
            )


def _impossible(family: Family, error: Exception) -> SpikeconvError:
    reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return SpikeconvError(f"config.json does not describe a {family.architecture}: {reason}")
