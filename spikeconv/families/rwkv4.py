"""RWKV-4 (Dove; Peng et al. 2023): every linear has a token shift of its own in front, so each is an encode group.

The squared ReLU in front of `feed_forward.value` leaves about half of its input at zero, and nothing below: unrotated
and unsigned the zeros stay zeros, and no count is spent on a sign.
"""

from typing import Any

from spikeconv.families.base import Family, LinearSpec, Stack
from spikeconv.families.native import RecurrentBlock
from spikeconv.families.norm import LAYER

__all__ = ["FAMILY", "NO_QUAROT", "UNSIGNED"]

NO_QUAROT = (
    "a LayerNorm and a token shift per channel stand in front of its linears, so its residual stream cannot be rotated"
)
UNSIGNED = {"inputs.spikes": "binary", "rotation.kind": "none"}


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """WKV: numerator and denominator, each decayed and added to for the state and once more for the output."""
    per_token = {
        "wkv": 4 * config.attention_hidden_size * config.num_hidden_layers,
        "head": config.hidden_size * config.vocab_size,
    }
    return {name: tokens * macs for name, macs in per_token.items()}


LINEARS = (
    LinearSpec("attention.receptance", "r", "r", center="ln1"),
    LinearSpec("attention.key", "k", "k", center="ln1"),
    LinearSpec("attention.value", "v", "v", center="ln1"),
    LinearSpec("attention.output", "o", "o"),
    LinearSpec("feed_forward.key", "ffn.key", "ffn.key", center="ln2"),
    LinearSpec("feed_forward.receptance", "ffn.receptance", "ffn.receptance", center="ln2"),
    LinearSpec("feed_forward.value", "ffn.value", "ffn.value"),
)

FAMILY = Family(
    "rwkv",
    "RwkvForCausalLM",
    (Stack("rwkv.blocks", LINEARS, LAYER, recurrent=RecurrentBlock()),),
    _float_macs,
    skipped={
        "rwkv.embeddings": "a table look-up multiplies nothing",
        "rwkv.blocks.*.attention.time_*": "vectors that multiply channel by channel, and the WKV recurrence",
        "head": "the output head stays in floating point, as in the paper",
    },
    recurrent=True,
    role_settings={"ffn.value": UNSIGNED},
    fixed={"rescale_every": 0},  # halving weights in place, for float16, would be lost on integers
    no_quarot=NO_QUAROT,
)
