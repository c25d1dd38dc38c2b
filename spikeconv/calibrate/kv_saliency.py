"""Which channels of keys and values get a bit more (SpikeLLM): as `saliency`, for the products that attention makes.

    key k:    mean over tokens of k (Q^T Q k), Q the queries that it meets
    value v:  mean over tokens of v (P^T P v), P the attention weights: of its channel, ‖P v‖²

after the rotary embedding and the rotation over head_dim. Query heads that share a key share its channels, by the sum
of their scores. One choice for the whole width of a layer's keys, and one of its values.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spikeconv.calibrate.saliency import select
from spikeconv.calibrate.streamed import BATCH_TOKENS, streamed_model
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.progress import Track, silent
from spikeconv.rotation import Rotation
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config

__all__ = ["salient_states"]

NAME = "spikeconv-observed"
"""Name of an attention that tells the module's `observer` of queries, keys and outputs."""


def salient_states(
    source: Source,
    low_share: float,
    seed: int,
    windows: Tensor,
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> dict[str, Tensor]:
    """The salient channels uint8 [out] of keys and values, by the module name of the linears that write them.

    Args:
        source: a float source, in the basis of the conversion.
        low_share: share of the channels that are not salient.
        seed: of the rotation of keys and values.
        windows: token ids [windows, tokens].
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.

    Raises:
        SpikeconvError: keys or values are not finite.
    """
    config, model = hf_config(source.config), streamed_model(source)
    family = find_family(source.config)
    scores: dict[str, _Scores] = {}
    for linear in family.layout(config):
        if linear.role in ("k", "v"):
            attention = model.get_submodule(linear.name.rpartition(".")[0])
            if not hasattr(attention, "observer"):
                attention.observer = _Observer(seed)
            scores[linear.name] = attention.observer.scores[linear.role]
    model.set_attn_implementation(NAME)
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    with torch.no_grad():
        for ids in track(batches, "looking for salient keys and values", len(batches)):
            model.base_model(ids, use_cache=False)
    return {name: select(each.mean(name), low_share) for name, each in scores.items()}


@dataclass
class _Scores:
    """Sums over tokens, [heads, head_dim] float64."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    tokens: int = 0

    def add(self, values: Tensor) -> None:
        """Add values [windows, heads, tokens, head_dim]."""
        self.total = self.total + values.double().sum((0, 2))
        self.tokens += values.shape[0] * values.shape[2]

    def mean(self, name: str) -> Tensor:
        """[heads · head_dim]."""
        if not self.total.isfinite().all():
            raise SpikeconvError(f"The outputs of {name} are not finite on the calibration text.")
        return (self.total / max(1, self.tokens)).flatten()


class _Observer:
    """Sees the attention of one layer."""

    def __init__(self, seed: int) -> None:
        self.scores = {"k": _Scores(), "v": _Scores()}
        self._seed = seed

    def __call__(self, query: Tensor, key: Tensor, output: Tensor) -> None:
        """Add query, key and output [windows, heads, tokens, head_dim], of which keys may have fewer heads."""
        rotation = Rotation(key.shape[-1], self._seed)
        query, key, output = (rotation(each.float()) for each in (query, key, output))
        query, output = (each.unflatten(1, (key.shape[1], -1)) for each in (query, output))
        products = torch.einsum("whgtc,whgtd->whcd", query, query)
        self.scores["k"].add(key * (key @ products))
        self.scores["v"].add(output.square().sum(2))


def _observed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """In the signature of transformers' attention functions."""
    output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)
    module.observer(query, key, output.transpose(1, 2))
    return output, None


ALL_ATTENTION_FUNCTIONS.register(NAME, _observed)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
