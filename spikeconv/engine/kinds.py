"""Whether the engine is for a loaded model, and which: of decoders, or of recurrent models."""

from typing import Any

from spikeconv.engine.obstacles import Obstacle
from spikeconv.engine.parts import decoder_obstacle, is_decoder
from spikeconv.engine.recurrent_parts import is_recurrent, recurrent_obstacle
from spikeconv.ops.native import load

__all__ = ["obstacle", "runs_decoder", "runs_engine", "runs_recurrent"]


def runs_engine(model: Any) -> bool:
    """Whether the engine is for a model, and nothing keeps it from that."""
    return runs_decoder(model) or runs_recurrent(model)


def runs_decoder(model: Any) -> bool:
    """The same of a decoder, which `Engine` runs."""
    return _is_native(model) and is_decoder(model) and decoder_obstacle(model) is None


def runs_recurrent(model: Any) -> bool:
    """The same of a model that `RecurrentEngine` runs."""
    return _is_native(model) and is_recurrent(model) and recurrent_obstacle(model) is None


def obstacle(model: Any) -> Obstacle | None:
    """What keeps a model on a CPU from the engine; None if nothing does, or if it is of a family without one.

    Native kernels that are missing are no obstacle of this kind, nor is a cache of rows: those have their own words.
    """
    if not _is_native(model):
        return None
    if is_decoder(model):
        return decoder_obstacle(model)
    return recurrent_obstacle(model) if is_recurrent(model) else None


def _is_native(model: Any) -> bool:
    return model.device.type == "cpu" and load("cpu").is_native
