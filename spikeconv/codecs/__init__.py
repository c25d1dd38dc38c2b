from spikeconv.codecs.base import Norm, SpikeCounts
from spikeconv.codecs.count import CountCodec
from spikeconv.codecs.gif import Encoded, GifCodec, encode_widths
from spikeconv.codecs.multihead import MultiheadCodec
from spikeconv.codecs.neuron import Neuron, NeuronCodec, streams_of
from spikeconv.codecs.repetition import RepetitionCodec
from spikeconv.config import CountInputs, GifInputs, MultiheadInputs, RepetitionInputs, SpikingInputs

__all__ = [
    "Codec",
    "CountCodec",
    "Encoded",
    "GifCodec",
    "MultiheadCodec",
    "Neuron",
    "NeuronCodec",
    "Norm",
    "RepetitionCodec",
    "SpikeCounts",
    "codec_of",
    "encode_widths",
    "streams_of",
]

Codec = CountCodec | MultiheadCodec | RepetitionCodec | GifCodec | NeuronCodec


def codec_of(inputs: SpikingInputs) -> Codec:
    """The codec of a scheme's inputs."""
    if isinstance(inputs, CountInputs):
        return CountCodec.of(inputs)
    if isinstance(inputs, GifInputs):
        return GifCodec.of(inputs)
    if isinstance(inputs, RepetitionInputs):
        return RepetitionCodec.of(inputs)
    return MultiheadCodec.of(inputs) if isinstance(inputs, MultiheadInputs) else NeuronCodec.of(inputs)
