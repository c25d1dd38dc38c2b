"""Makes the tokenizers of this room known to transformers; imported right after its registry of tokenizers."""

from spikeconv.models.tokenizers import register_tokenizers

register_tokenizers()
