"""A whole converted model as one native object: tokens → logits, with a cache or a state made beforehand."""

from spikeconv.engine.cache import StateCache
from spikeconv.engine.data_mixing import DataMixingEngine, recurrent_engine
from spikeconv.engine.head import BLOCK, Head, head_module, head_of
from spikeconv.engine.kinds import obstacle, runs_decoder, runs_engine, runs_recurrent
from spikeconv.engine.model import PARTS, READ, Engine, Sequence, windows_of
from spikeconv.engine.obstacles import Obstacle
from spikeconv.engine.parts import attention_of, decoder_of
from spikeconv.engine.pieces import CHUNK
from spikeconv.engine.recurrent import RecurrentEngine, RecurrentSequence
from spikeconv.engine.recurrent_parts import blocks_of
from spikeconv.engine.scores import Likelihoods, score
from spikeconv.engine.texts import Texts, texts_of

__all__ = [
    "BLOCK",
    "CHUNK",
    "PARTS",
    "READ",
    "DataMixingEngine",
    "Engine",
    "Head",
    "Likelihoods",
    "Obstacle",
    "RecurrentEngine",
    "RecurrentSequence",
    "Sequence",
    "StateCache",
    "Texts",
    "attention_of",
    "blocks_of",
    "decoder_of",
    "head_module",
    "head_of",
    "obstacle",
    "recurrent_engine",
    "runs_decoder",
    "runs_engine",
    "runs_recurrent",
    "score",
    "texts_of",
    "windows_of",
]
