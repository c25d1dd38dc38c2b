"""LLaMA 1 to 3 and models of the same architecture (SmolLM2, Yi, …)."""

from spikeconv.families.base import Family, attention_macs, gated_decoder
from spikeconv.families.native import GatedDecoder

FAMILY = Family("llama", "LlamaForCausalLM", gated_decoder(GatedDecoder()), attention_macs, gguf="llama")
