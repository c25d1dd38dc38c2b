"""BART, encoder and decoder (Lewis et al. 2019): LayerNorm behind every sum, and attention to what the encoder read.

Keys and values of the cross-attention share their input, the encoder's states, with nothing else of their layer. What
is read behind a LayerNorm of the same stack has that norm's bias as a constant part.
"""

from typing import Any

from spikeconv.families.base import Family, LinearSpec, Stack
from spikeconv.families.norm import LAYER

__all__ = ["FAMILY"]


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """Scores and sums of the three attentions, over the full N², and the output head."""
    attentions = config.encoder_layers + 2 * config.decoder_layers
    head = tokens * config.d_model * config.vocab_size
    return {"attention": 2 * tokens**2 * config.d_model * attentions, "head": head}


BEHIND = "final_layer_norm"
SELF = (
    *(LinearSpec(f"self_attn.{name}_proj", name, "qkv", center=BEHIND, before=True) for name in "qkv"),
    LinearSpec("self_attn.out_proj", "o", "o"),
)
CROSS = (
    LinearSpec("encoder_attn.q_proj", "cross_q", "cross_q", center="self_attn_layer_norm"),
    LinearSpec("encoder_attn.k_proj", "cross_k", "cross_kv"),
    LinearSpec("encoder_attn.v_proj", "cross_v", "cross_kv"),
    LinearSpec("encoder_attn.out_proj", "cross_o", "cross_o"),
)


def _stack(part: str, attention: tuple[LinearSpec, ...], in_front: str) -> Stack:
    feed_forward = LinearSpec("fc1", "up", "up", center=in_front), LinearSpec("fc2", "down", "down")
    place = f"model.{part}"
    linears = (*attention, *feed_forward)
    return Stack(f"{place}.layers", linears, LAYER, count=f"{part}_layers", entry=f"{place}.layernorm_embedding")


FAMILY = Family(
    "bart",
    "BartForConditionalGeneration",
    (
        _stack("encoder", SELF, "self_attn_layer_norm"),
        _stack("decoder", (*SELF, *CROSS), "encoder_attn_layer_norm"),
    ),
    _float_macs,
    skipped={
        "model.shared": "a table look-up multiplies nothing",
        "lm_head": "the output head stays in floating point, as in SpikeLM",
    },
    encodes=True,
    no_quarot="its norms stand behind the sums, so its residual stream cannot be rotated",
    auto_class="AutoModelForSeq2SeqLM",
)
