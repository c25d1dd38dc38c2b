"""What keeps a loaded model from the engine, whatever kind of layers it has."""

from typing import Any, NamedTuple

import torch

__all__ = ["Obstacle", "obstacle_around"]


class Obstacle(NamedTuple):
    """Why a model does not run in the engine, and whether that is a choice: of the user, or of the model's makers."""

    why: str
    is_choice: bool


def obstacle_around(model: Any, layers: int) -> Obstacle | None:
    """What of a model keeps it from the engine beside its `layers`; None if nothing does."""
    config = model.config.get_text_config()
    if any("forward" in module.__dict__ for module in model.base_model.modules() if module is not model.base_model):
        return Obstacle("forwards of its modules were replaced, as accelerate does to move weights", True)
    if model.dtype != torch.float32:
        return Obstacle(f"the model computes in {str(model.dtype).removeprefix('torch.')}, not in float32", True)
    if config.num_hidden_layers != layers:
        return Obstacle(f"config.num_hidden_layers is {config.num_hidden_layers}, but there are {layers}", True)
    return None
