"""Which channels of keys and values get a bit more (SpikeLLM): as `saliency`, for the products that attention makes.

    key k:    mean over tokens of k (Q^T Q k), Q the queries that it meets
    value v:  mean over tokens of v (P^T P v), P the attention weights: of its channel, ‖P v‖²

after the rotary embedding and the rotation over head_dim. Query heads that share a key share its channels, by the sum
of their scores. One choice for the whole width of a layer's keys, and one of its values.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spikeconv.calibrate.scores import Scores
from spikeconv.families import ModuleLinear
from spikeconv.rotation import Rotation

__all__ = ["observe_states"]

NAME = "spikeconv-observed"
"""Name of an attention that tells the module's `observer` of queries, keys and outputs."""


def observe_states(model: Any, layout: Iterable[ModuleLinear], seed: int) -> dict[str, Scores]:
    """Scores of keys and values, by the module name of the linears that write them; they grow while the model runs.

    Args:
        model: a float model, whose attention is observed from then on.
        layout: its linears (`Family.layout`).
        seed: of the rotation of keys and values.
    """
    scores: dict[str, Scores] = {}
    for linear in layout:
        if linear.role in ("k", "v"):
            attention = model.get_submodule(linear.name.rpartition(".")[0])
            if not hasattr(attention, "observer"):
                attention.observer = _Observer(seed)
            scores[linear.name] = attention.observer.scores[linear.role]
    model.set_attn_implementation(NAME)
    return scores


class _Observer:
    """Sees the attention of one layer."""

    def __init__(self, seed: int) -> None:
        self.scores = {"k": Scores(), "v": Scores()}
        self._seed = seed

    def __call__(self, query: Tensor, key: Tensor, output: Tensor) -> None:
        """Add query, key and output [windows, heads, tokens, head_dim], of which keys may have fewer heads."""
        rotation = Rotation(key.shape[-1], self._seed)
        query, key, output = (rotation(each.float()) for each in (query, key, output))
        query, output = (each.unflatten(1, (key.shape[1], -1)) for each in (query, output))
        products = torch.einsum("whgtc,whgtd->whcd", query, query)
        for kind, values in (("k", key * (key @ products)), ("v", output.square().sum(2))):
            self.scores[kind].add(values.double().sum((0, 2)), key.shape[0] * key.shape[2])


def _observed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """In the signature of transformers' attention functions."""
    output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    module.observer(query, key, output.transpose(1, 2))
    return output, None


ALL_ATTENTION_FUNCTIONS.register(NAME, _observed)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
