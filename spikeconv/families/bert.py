"""BERT encoders (Devlin et al. 2018; MiniLM, …): LayerNorm behind every sum, attention both ways, no next token.

What a linear reads behind a LayerNorm has that norm's bias as a constant part: q, k and v that of the layer before.
"""

from typing import Any

from spikeconv.families.base import Family, Head, LinearSpec, Stack
from spikeconv.families.norm import LAYER

__all__ = ["FAMILY"]


def _float_macs(config: Any, tokens: int) -> dict[str, int]:
    """Scores and sums of attention, over the full N², and the head of a masked language model."""
    result = {"attention": 2 * tokens**2 * config.hidden_size * config.num_hidden_layers}
    if "BertForMaskedLM" in (config.architectures or []):
        result["head"] = tokens * config.hidden_size * (config.hidden_size + config.vocab_size)
    return result


LINEARS = (
    LinearSpec("attention.self.query", "q", "qkv", center="output.LayerNorm", before=True),
    LinearSpec("attention.self.key", "k", "qkv", center="output.LayerNorm", before=True),
    LinearSpec("attention.self.value", "v", "qkv", center="output.LayerNorm", before=True),
    LinearSpec("attention.output.dense", "o", "o"),
    LinearSpec("intermediate.dense", "up", "up", center="attention.output.LayerNorm"),
    LinearSpec("output.dense", "down", "down"),
)

FAMILY = Family(
    "bert",
    "BertModel",
    (Stack("encoder.layer", LINEARS, LAYER, entry="embeddings.LayerNorm"),),
    _float_macs,
    skipped={
        "embeddings": "a table look-up multiplies nothing",
        "pooler.dense": "the pooler reads one token of a text",
    },
    encodes=True,
    no_quarot="its norms stand behind the sums, so its residual stream cannot be rotated",
    auto_class="AutoModel",
    heads={
        "BertForMaskedLM": Head("AutoModelForMaskedLM", "cls"),
        "BertForSequenceClassification": Head("AutoModelForSequenceClassification", "classifier"),
    },
    base="bert",
)
