"""The engine of a loaded model: a plan of all its layers, and forwards of it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.engine.cache import StateCache
from spikeconv.families import family_of, own_name
from spikeconv.ops.native import plan_model, run_model

PARTS = ("encode", "products", "attention", "head", "rest")


class Sequence(NamedTuple):
    """Tokens of one sequence in a forward.

    Attributes:
        count: how many.
        slot: of the cache.
        at: which key the first one's is.
        first: the first key that there is (behind padding on the left).
        position: of the first token.
    """

    count: int
    slot: int = 0
    at: int = 0
    first: int = 0
    position: int = 0


class Engine:
    def __init__(self, model: Any, positions: int) -> None:
        family, config = family_of(model), model.config.get_text_config()
        (stack,) = family.stacks
        parts = stack.native
        layers = model.get_submodule(own_name(model, stack.layers))
        self.groups = []
        for layer in layers:
            attention, mlp = getattr(layer, parts.attention), getattr(layer, parts.feed_forward)
            for first in (getattr(attention, parts.q), getattr(attention, parts.o), getattr(mlp, parts.gate), getattr(mlp, parts.down)):
                self.groups.append(first.group.plan())
        self.config = config
        attention = getattr(layers[0], parts.attention)
        self.layers, self.key_heads, self.head_dim = len(layers), config.num_key_value_heads, attention.head_dim
        self.vocabulary = config.vocab_size
        decoder = model.base_model
        rotary = decoder.rotary_emb
        cos, sin = rotary(torch.empty(0), torch.arange(positions)[None])
        embedding = decoder.embed_tokens.weight
        head = model.get_output_embeddings()
        half = embedding.detach().bfloat16()
        self.tensors = [half if torch.equal(half.float(), embedding) else embedding, cos[0].float().contiguous(), sin[0].float().contiguous(), decoder.norm.weight.detach()]
        weight = head.weight.detach()
        wh = weight.bfloat16()
        self.head = self.tensors[0] if head.weight is embedding else wh if torch.equal(wh.float(), weight) else weight
        sizes = [self.layers, config.hidden_size, config.num_attention_heads, self.key_heads, self.head_dim, config.intermediate_size, self.vocabulary, positions]
        self.plan = plan_model(
            [*sizes, *([0] * self.layers)],
            [attention.scaling, decoder.norm.variance_epsilon, 1e-6],
            [*self.tensors, self.head, None],
            [group.arguments for group in self.groups],
            [],
        )
        self.seconds = torch.zeros(5, dtype=torch.float64)

    def cache(self, slots: int, capacity: int, dtype=torch.float32) -> StateCache:
        return StateCache(self.layers, self.key_heads, self.head_dim, slots, capacity, dtype)

    def forward(self, tokens: Tensor, sequences: list[Sequence], cache: StateCache, wanted: Tensor) -> Tensor:
        rows, begin = [], 0
        for s in sequences:
            rows.append((begin, *s))
            begin += s.count
        return run_model(self.plan, tokens, torch.tensor(rows), cache.keys, cache.values, wanted, self.seconds, torch.empty(0))
