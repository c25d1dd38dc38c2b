"""RWKV-6 (Finch; Peng et al. 2024), the base of SpikeRWKV: data-dependent token shift and decay, a gate."""

from typing import Any

from spikeconv.families.base import Family, LinearSpec, Stack
from spikeconv.families.native import DataMixingBlock
from spikeconv.families.norm import LAYER
from spikeconv.families.rwkv4 import NO_QUAROT, UNSIGNED


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """WKV: a head's matrix is decayed, added to and read; low rank: five mixes and the decay, down and up again."""
    attention, hidden, layers = config.attention_hidden_size, config.hidden_size, config.num_hidden_layers
    mixes = 5 * config.time_mix_extra_dim * 2 * hidden
    decay = config.time_decay_extra_dim * (hidden + attention)
    per_token = {
        "wkv": 3 * attention * config.head_size * layers,
        "low rank": (mixes + decay) * layers,
        "head": hidden * config.vocab_size,
    }
    return {name: tokens * macs for name, macs in per_token.items()}


LINEARS = (
    LinearSpec("attention.receptance", "r", "r", center="ln1"),
    LinearSpec("attention.key", "k", "k", center="ln1"),
    LinearSpec("attention.value", "v", "v", center="ln1"),
    LinearSpec("attention.gate", "g", "g", center="ln1"),
    LinearSpec("attention.output", "o", "o"),
    LinearSpec("feed_forward.key", "ffn.key", "ffn.key", center="ln2"),
    LinearSpec("feed_forward.receptance", "ffn.receptance", "ffn.receptance", center="ln2"),
    LinearSpec("feed_forward.value", "ffn.value", "ffn.value"),
)

FAMILY = Family(
    "rwkv6",
    "Rwkv6ForCausalLM",
    (Stack("rwkv.blocks", LINEARS, LAYER, recurrent=DataMixingBlock()),),
    _float_macs,
    skipped={
        "rwkv.embeddings": "a table look-up multiplies nothing",
        "rwkv.blocks.*.attention.time_*": "low-rank matrices and vectors of token shift, decay and WKV recurrence: few "
        "products, whose errors would add up in the state",
        "head": "the output head stays in floating point, as in the paper",
    },
    recurrent=True,
    role_settings={"ffn.value": UNSIGNED},
    no_quarot=NO_QUAROT,
)
