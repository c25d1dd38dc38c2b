from spikeconv.codecs.base import Norm, SpikeCounts
from spikeconv.codecs.count import CountCodec
from spikeconv.codecs.multihead import MultiheadCodec
from spikeconv.codecs.repetition import RepetitionCodec
from spikeconv.config import LinearScheme

__all__ = ["Codec", "CountCodec", "MultiheadCodec", "Norm", "RepetitionCodec", "SpikeCounts", "codec_of"]

Codec = CountCodec | MultiheadCodec | RepetitionCodec


def codec_of(scheme: LinearScheme) -> Codec:
    """The codec of a scheme whose activations are not float."""
    if scheme.codec == "multihead":
        return MultiheadCodec.of(scheme)
    return RepetitionCodec.of(scheme) if scheme.codec == "repetition" else CountCodec.of(scheme)
