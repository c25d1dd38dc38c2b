"""RWKV-7 (Goose; Peng et al. 2025), with the model class of the package rwkv7-hf. Its feed-forward has no gate."""

from typing import Any

from spikeconv.families.base import Family, LinearSpec, Stack
from spikeconv.families.norm import LAYER
from spikeconv.families.rwkv4 import NO_QUAROT, UNSIGNED


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """WKV: a head's matrix is decayed, rewritten (read and added to), added to and read; low rank: w, a, v and g."""
    attention, hidden, layers = config.attention_hidden_size, config.hidden_size, config.num_hidden_layers
    ranks = config.decay_low_rank_dim + config.a_low_rank_dim + config.gate_low_rank_dim
    per_token = {
        "wkv": 5 * attention * config.head_dim * layers,
        "low rank": (ranks * layers + config.v_low_rank_dim * (layers - 1)) * (hidden + attention),
        "head": hidden * config.vocab_size,
    }
    return {name: tokens * macs for name, macs in per_token.items()}


LINEARS = (
    LinearSpec("attn.r_proj", "r", "r", center="attn_norm"),
    LinearSpec("attn.k_proj", "k", "k", center="attn_norm"),
    LinearSpec("attn.v_proj", "v", "v", center="attn_norm"),
    LinearSpec("attn.o_proj", "o", "o"),
    LinearSpec("ffn.key", "ffn.key", "ffn.key", center="ffn_norm"),
    LinearSpec("ffn.value", "ffn.value", "ffn.value"),
)

FAMILY = Family(
    "rwkv7",
    "RWKV7ForCausalLM",
    (Stack("model.layers", LINEARS, LAYER),),
    _float_macs,
    skipped={
        "model.embeddings": "a table look-up multiplies nothing",
        "model.layers.*.attn.*_lora": "low-rank matrices of decay, rewriting and gate: few products, whose errors "
        "would add up in the WKV state",
        "lm_head": "the output head stays in floating point, as in the paper",
    },
    recurrent=True,
    role_settings={"ffn.value": UNSIGNED},
    package="rwkv7-hf",
    no_quarot=NO_QUAROT,
)
