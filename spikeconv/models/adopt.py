"""Layers of ours in models that other packages bring; only in the models that we load, never in their classes."""

import importlib
from typing import Any

__all__ = ["adopt"]

ROOMS = {"rwkv": "spikeconv.models.rwkv4", "rwkv7": "spikeconv.models.rwkv7"}
"""The module with `adopt(model)` for a `model_type`; imported when there is such a model, as it imports its classes."""


def adopt(model: Any) -> Any:
    """Give a model, converted or float, the layers of ours for its kind; once. Returns the model."""
    room = ROOMS.get(model.config.get_text_config().model_type)
    if room is not None and not getattr(model, "_is_adopted", False):
        importlib.import_module(room).adopt(model)
        model._is_adopted = True
    return model
