from spikeconv.codecs.base import Norm, SpikeCounts
from spikeconv.codecs.count import CountCodec
from spikeconv.codecs.multihead import MultiheadCodec
from spikeconv.codecs.repetition import RepetitionCodec
from spikeconv.config import MultiheadInputs, RepetitionInputs, SpikingInputs

__all__ = ["Codec", "CountCodec", "MultiheadCodec", "Norm", "RepetitionCodec", "SpikeCounts", "codec_of"]

Codec = CountCodec | MultiheadCodec | RepetitionCodec


def codec_of(inputs: SpikingInputs) -> Codec:
    """The codec of a scheme's inputs."""
    if isinstance(inputs, MultiheadInputs):
        return MultiheadCodec.of(inputs)
    return RepetitionCodec.of(inputs) if isinstance(inputs, RepetitionInputs) else CountCodec.of(inputs)
