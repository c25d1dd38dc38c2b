"""Mistral 7B: LLaMA's layer with sliding-window attention."""

from spikeconv.families.base import Family, attention_macs, gated_decoder
from spikeconv.families.native import GatedDecoder

FAMILY = Family("mistral", "MistralForCausalLM", gated_decoder(GatedDecoder()), attention_macs)
