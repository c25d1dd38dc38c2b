"""The engine of a loaded model: a plan of all its layers, and forwards of it in native code."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.engine.cache import StateCache
from spikeconv.engine.head import head_module
from spikeconv.engine.held import Held, head_tables
from spikeconv.engine.parts import decoder_of
from spikeconv.engine.pieces import NOTHING, by_layer, in_pieces
from spikeconv.ops.native_models import plan_model, run_model

__all__ = ["PARTS", "READ", "Engine", "Sequence", "windows_of"]

PARTS = ("encode", "products", "attention", "head", "rest")
"""What a forward's time goes into."""

READ = ("input", "attended", "middle", "product")
"""What the groups of a layer read (q, k and v; o; gate and up; down), by its name in `Engine.layer_by_layer`."""

FEW_QUERIES = 8
"""Queries of a key head up to which attention adds up in another order (kFewQueryRows in kernels/cpu)."""

FEW_QUERIES_OF_COUNTS = 64
"""The same of attention over counts: up to here keys are cut into parts (kSplitQueries)."""

FEWEST_POSITIONS = 1024


class Sequence(NamedTuple):
    """Some more tokens of one sequence.

    Attributes:
        tokens: how many.
        slot: of the cache.
        at: which key the first one's is.
        first: the first key that there is (behind padding on the left).
        position: of the first token, for the rotary embedding.
        fork, gap: keys from `fork` on are its own and lie `gap` places further on in the slot; those before it are
            others' too, of this call or of one before.
    """

    tokens: int
    slot: int = 0
    at: int = 0
    first: int = 0
    position: int = 0
    fork: int = 0
    gap: int = 0

    def piece(self, done: int, count: int) -> "Sequence":
        """`count` of its tokens behind the first `done`."""
        return self._replace(tokens=count, at=self.at + done, position=self.position + done)


class Engine:
    """A converted LLaMA, Mistral, Qwen2 or Qwen3 on a CPU, in float32, as one native object.

    It holds for the tensors that the model had when it was made, each at its address; `holds` says whether it still
    does. What it points to cannot be freed while it lives.

    Args:
        model: loaded, without an obstacle (`kinds.obstacle`).
        positions: of a text at most; rotary tables are made for so many.
        head_bits: 8 for logits of a head that is rounded to int8, None for the checkpoint's (see `head_of`).

    Attributes:
        groups: of the linears of each layer, in the order of `READ`.
        codes: of the keys and values of each layer; empty where they are floats.
        fewest: tokens from which on a piece of a text has the bits that it has in the whole text.
        seconds: float64 [5] by `PARTS`, spent so far.
        cache_dtype: of the caches of float keys and values that it makes: float32 or bfloat16.
    """

    def __init__(self, model: Any, positions: int = FEWEST_POSITIONS, head_bits: int | None = None) -> None:
        decoder = decoder_of(model)
        base, config = decoder.base, model.config.get_text_config()
        attention = decoder.layers[0].attention
        self.layers, self.head_dim, self.positions = len(decoder.layers), attention.head_dim, positions
        self.key_heads, self.hidden, self.vocabulary = config.num_key_value_heads, config.hidden_size, config.vocab_size
        self.groups = [layer.groups for layer in decoder.layers]
        self._plans = [group.plan() for groups in self.groups for group in groups]
        self.codes = [layer.code for layer in decoder.layers if layer.code is not None]
        few = FEW_QUERIES_OF_COUNTS if self.codes else FEW_QUERIES
        self.fewest = few // (config.num_attention_heads // self.key_heads) + 1
        norms = [norm for layer in decoder.layers for norm in layer.norms]
        head = head_module(model)
        own = [(module._parameters, "weight") for module in (base.embed_tokens, base.norm, *norms)]
        own += [(vars(layer.attention), "scaling") for layer in decoder.layers]
        own += [(vars(norm), "variance_epsilon") for norm in (base.norm, *norms)]
        own += [(vars(layer.attention), "kv") for layer in decoder.layers if layer.code is not None]
        own += [(vars(code), name) for code in self.codes for name in ("settings", "rotation", "execution")]
        own.append((base.rotary_emb._buffers, "inv_freq"))
        self._held = Held(self._plans, own, [base.embed_tokens.weight], head)
        self._config, self._windows = config, windows_of(config, self.layers)
        with torch.no_grad():
            cos, sin = base.rotary_emb(torch.empty(0), torch.arange(positions)[None])
            self.tables = [
                base.embed_tokens.weight.detach().contiguous(),
                cos[0].contiguous(),
                sin[0].contiguous(),
                base.norm.weight.detach(),
                *head_tables(head, head_bits),
            ]
        sizes = [self.layers, self.hidden, config.num_attention_heads, self.key_heads, self.head_dim]
        self._plan = plan_model(
            [*sizes, config.intermediate_size, self.vocabulary, positions, *self._windows],
            [attention.scaling, base.norm.variance_epsilon, norms[0].variance_epsilon if norms else 0.0],
            self.tables,
            [plan.arguments for plan in self._plans],
            [norm.weight.detach() for norm in norms],
            *self._rows(),
        )
        self.seconds = torch.zeros(len(PARTS), dtype=torch.float64)
        self.cache_dtype = torch.float32

    def _rows(self) -> tuple[list[float], list[Tensor], list[Tensor]]:
        """How keys and values are encoded, which is the same in all layers: settings, rotation, its inverse."""
        if not self.codes:
            return [], [], []
        code, cpu = self.codes[0], torch.device("cpu")
        self._rotations = code.rotation.on(cpu), code.rotation.transposed_on(cpu)
        return code.settings.table(), *self._rotations

    def holds(self) -> bool:
        """Whether the model's tensors and settings still are what they were."""
        return (
            self._held.hold()
            and self._config.num_hidden_layers == self.layers
            and windows_of(self._config, self.layers) == self._windows
        )

    def cache(self, slots: int, capacity: int, dtype: torch.dtype | None = None) -> StateCache:
        """An empty cache of this model; the dtype is that of keys and values that are floats (`cache_dtype`)."""
        if self.codes:
            return StateCache(self.layers, self.key_heads, self.codes[0].row_bytes, slots, capacity, torch.uint8)
        return StateCache(self.layers, self.key_heads, self.head_dim, slots, capacity, dtype or self.cache_dtype)

    def reads(self, cache: StateCache) -> bool:
        """Whether a cache is one of such keys and values."""
        width = self.codes[0].row_bytes if self.codes else self.head_dim
        return (cache.keys.dtype == torch.uint8) == bool(self.codes) and cache.keys.shape[-1] == width

    def forward(
        self, tokens: Tensor, sequences: Iterable[Sequence], cache: StateCache, wanted: Tensor, *, logits: bool
    ) -> Tensor:
        """Go on with some sequences.

        Args:
            tokens: int64 [T], of all sequences, one after the other.
            sequences: of at least one token each, that do not write to the same places.
            cache: what was said before; it is written to.
            wanted: int64 [R], rows of `tokens`, ascending.
            logits: whether logits are wanted, or what the head reads (behind the last norm).

        Returns:
            float32 [R, vocabulary] or [R, hidden].

        Raises:
            RuntimeError: a token that the model does not know, or no room in cache or rotary tables.
        """
        return in_pieces(
            lambda some, rows, wanted: run_model(
                self._plan, some, rows, cache.keys, cache.values, wanted, logits, self.seconds, (0, self.layers),
                NOTHING, NOTHING,
            ),
            tokens, sequences, wanted,
        )  # fmt: skip

    def layer_by_layer(
        self, tokens: Tensor, sequences: Iterable[Sequence], cache: StateCache, out: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """A forward, layer by layer, with what is computed on the way.

        Args:
            tokens, sequences, cache: as of `forward`; not cut into pieces.
            out: float32 [T, hidden], filled with what the head reads; None: nobody asks.

        Returns:
            of one layer after the other, by name float32 [T, width]:
            `input`, `q`, `k`, `v`, `attended`, `o`, `middle`, `gate`, `up`, `product` (what
            goes into down), `down`. The next layer overwrites them.
        """
        queries = self._plans[1].in_features
        keys, inner = self.key_heads * self.head_dim, self._plans[3].in_features
        widths = {
            "input": self.hidden, "q": queries, "k": keys, "v": keys, "attended": queries, "o": self.hidden,
            "middle": self.hidden, "gate": inner, "up": inner, "product": inner, "down": self.hidden,
        }  # fmt: skip
        return by_layer(
            lambda rows, wanted, some, stream, trace: run_model(
                self._plan, tokens, rows, cache.keys, cache.values, wanted, False, self.seconds, some, stream, trace
            ),
            sequences, self.layers, widths, out,
        )  # fmt: skip


def windows_of(config: Any, layers: int) -> list[int]:
    """Keys that a token sees in each layer, itself included; 0: all."""
    window = int(getattr(config, "sliding_window", None) or 0)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return [window if kind == "sliding_attention" else 0 for kind in kinds]
