from spikeconv.codecs.count import CountCodec, Norm, SpikeCounts

__all__ = ["CountCodec", "Norm", "SpikeCounts"]
