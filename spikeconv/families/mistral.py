"""Mistral 7B: LLaMA's layer with sliding-window attention."""

from spikeconv.families.base import Family, attention_macs, gated_decoder_linears

FAMILY = Family("mistral", "MistralForCausalLM", gated_decoder_linears(), attention_macs, native_layer="gated-decoder")
