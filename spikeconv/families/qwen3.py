"""Qwen3 (dense): an explicit head_dim and norms on q and k, both behind the linears and so untouched."""

from spikeconv.families.base import Family, attention_macs, gated_decoder_linears

FAMILY = Family("qwen3", "Qwen3ForCausalLM", gated_decoder_linears(), attention_macs, gguf="qwen3")
