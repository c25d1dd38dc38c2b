"""Names of modules in a model with an output head, which families and checkpoints use, and in one without."""

from typing import Any

__all__ = ["own_name"]


def own_name(model: Any, name: str) -> str:
    """What a model calls a module that is called `name` in the model with its output head."""
    prefix: str = model.base_model_prefix
    return name if hasattr(model, prefix) else name.removeprefix(f"{prefix}.")
