"""Qwen2 and Qwen2.5: LLaMA's layer with biases on q, k and v (a bias is added after the product: it needs nothing)."""

from spikeconv.families.base import Family, attention_macs, gated_decoder
from spikeconv.families.native import GatedDecoder

FAMILY = Family("qwen2", "Qwen2ForCausalLM", gated_decoder(GatedDecoder()), attention_macs, gguf="qwen2")
