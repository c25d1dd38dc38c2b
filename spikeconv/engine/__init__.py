"""A converted decoder as one native object: tokens → logits, with a preallocated cache of keys and values."""

from spikeconv.engine.cache import StateCache
from spikeconv.engine.model import CHUNK, PARTS, Engine, Sequence, exact_half, windows_of
from spikeconv.engine.parts import Obstacle, decoder_of, obstacle, runs_engine
from spikeconv.engine.scores import score
from spikeconv.engine.texts import Texts, texts_of

__all__ = [
    "CHUNK",
    "PARTS",
    "Engine",
    "Obstacle",
    "Sequence",
    "StateCache",
    "Texts",
    "decoder_of",
    "exact_half",
    "obstacle",
    "runs_engine",
    "score",
    "texts_of",
    "windows_of",
]
