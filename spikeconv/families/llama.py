"""LLaMA 1 to 3 and models of the same architecture (SmolLM2, Yi, …)."""

from spikeconv.families.base import Family, attention_macs, gated_decoder_linears

FAMILY = Family(
    "llama", "LlamaForCausalLM", gated_decoder_linears(), attention_macs, native_layer="gated-decoder", gguf="llama"
)
