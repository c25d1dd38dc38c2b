from spikeconv.config.scheme import FLOAT_BITS, LinearScheme, Override, SpikeConfig, parse_bits, parse_settings

__all__ = ["FLOAT_BITS", "LinearScheme", "Override", "SpikeConfig", "parse_bits", "parse_settings"]
