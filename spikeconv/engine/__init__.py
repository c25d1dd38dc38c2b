"""A converted decoder as one native object: tokens → logits, with a preallocated cache of keys and values."""

from spikeconv.engine.cache import StateCache
from spikeconv.engine.head import BLOCK, Head, head_module, head_of
from spikeconv.engine.model import CHUNK, PARTS, READ, Engine, Sequence, windows_of
from spikeconv.engine.parts import Obstacle, attention_of, decoder_of, obstacle, runs_engine
from spikeconv.engine.scores import score
from spikeconv.engine.texts import Texts, texts_of

__all__ = [
    "BLOCK",
    "CHUNK",
    "PARTS",
    "READ",
    "Engine",
    "Head",
    "Obstacle",
    "Sequence",
    "StateCache",
    "Texts",
    "attention_of",
    "decoder_of",
    "head_module",
    "head_of",
    "obstacle",
    "runs_engine",
    "score",
    "texts_of",
    "windows_of",
]
