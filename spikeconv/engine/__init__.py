"""A whole converted decoder as one native object: tokens → logits, with a key-value cache of its own."""

from spikeconv.engine.cache import StateCache
from spikeconv.engine.model import Engine, Sequence

__all__ = ["Engine", "Sequence", "StateCache"]
