from spikeconv.codecs.count import CountCodec, SpikeCounts

__all__ = ["CountCodec", "SpikeCounts"]
