"""Qwen3 (dense): an explicit head_dim and norms on q and k, both behind the linears and so untouched."""

from spikeconv.families.base import Family, attention_macs, gated_decoder

FAMILY = Family("qwen3", "Qwen3ForCausalLM", gated_decoder(), attention_macs, gguf="qwen3")
