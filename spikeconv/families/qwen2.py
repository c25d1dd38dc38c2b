"""Qwen2 and Qwen2.5: LLaMA's layer with biases on q, k and v (a bias is added after the product: it needs nothing)."""

from spikeconv.families.base import Family, attention_macs, gated_decoder_linears

FAMILY = Family(
    "qwen2", "Qwen2ForCausalLM", gated_decoder_linears(), attention_macs, native_layer="gated-decoder", gguf="qwen2"
)
