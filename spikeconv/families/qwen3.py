"""Qwen3 (dense): an explicit head_dim and norms on q and k, both behind the linears and so untouched."""

from spikeconv.families.base import Family, attention_macs, gated_decoder
from spikeconv.families.native import GatedDecoder

FAMILY = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    gated_decoder(GatedDecoder(q_norm="q_norm", k_norm="k_norm")),
    attention_macs,
    gguf="qwen3",
)
