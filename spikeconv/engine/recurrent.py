"""The engine of a loaded recurrent model: a plan of all its blocks, and forwards of it in native code."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.engine.head import head_module
from spikeconv.engine.held import Held, head_tables
from spikeconv.engine.model import PARTS
from spikeconv.engine.pieces import NOTHING, by_layer, in_pieces
from spikeconv.engine.recurrent_parts import Block, blocks_of
from spikeconv.nn.memory import large_empty
from spikeconv.ops.native_models import plan_recurrent, run_recurrent

__all__ = ["MIXED", "RecurrentEngine", "RecurrentSequence"]

MIXED = (
    *("key input", "value input", "receptance input", "gated"),
    *("channel key input", "channel receptance input", "product"),
)
"""What the groups of a block read, by its name in `RecurrentEngine.layer_by_layer`."""

EMPTY = -1e30
"""Exponent of sums of nothing, as transformers has it."""


class RecurrentSequence(NamedTuple):
    """Some more tokens of one sequence.

    Attributes:
        tokens: how many.
        slot: of the state.
    """

    tokens: int
    slot: int = 0

    def piece(self, done: int, count: int) -> "RecurrentSequence":
        """`count` of its tokens behind the first `done`."""
        return self._replace(tokens=count)


class RecurrentEngine:
    """A converted RWKV-4 on a CPU, in float32, as one native object.

    It holds for the tensors that the model had when it was made, each at its address; `holds` says whether it still
    does. What it points to cannot be freed while it lives.

    Args:
        model: loaded, without an obstacle (`kinds.obstacle`).
        head_bits: 8 for logits of a head that is rounded to int8, None for the checkpoint's (see `head_of`).

    Attributes:
        groups: of the linears of each block, in the order of `reads_of`.
        names, reads_of: what `layer_by_layer` gives, and what of that the groups read.
        seconds: float64 [5] by `PARTS`, spent so far; the recurrence is the attention.
    """

    names: tuple[str, ...] = (
        *("input", "normed", *MIXED[:3], "key", "value", "receptance", "gated", "output"),
        *("middle", "channel normed", *MIXED[4:6], "channel key", "channel receptance", "product", "channel value"),
    )
    reads_of: tuple[str, ...] = MIXED

    def __init__(self, model: Any, head_bits: int | None = None) -> None:
        base, self._config = model.base_model, model.config
        entry, blocks = blocks_of(model)
        self.layers, self.hidden = len(blocks), model.config.hidden_size
        self.vocabulary = base.embeddings.num_embeddings
        self.groups = [[role.linear.group for role in block.roles] for block in blocks]
        self._plans: list[Any] = [group.plan() for groups in self.groups for group in groups]
        norms = [entry, base.ln_out, *(norm for block in blocks for norm in block.norms)]
        head = head_module(model)
        own = [(module._parameters, name) for module in norms for name in ("weight", "bias")]
        own += [(vars(norm), "eps") for norm in norms]
        own += [(base.embeddings._parameters, "weight"), *(cell for block in blocks for cell in _cells(block))]
        copied = [base.embeddings.weight, *(tensor for block in blocks for tensor in self._copied(block))]
        self._held = Held(self._plans, own, copied, head)
        with torch.no_grad():
            self._tables = [base.embeddings.weight.detach().contiguous(), *head_tables(head, head_bits)]
            self._vectors = [vector for block in blocks for vector in (*_prepared(block), *self._recurrence(block))]
        self._plan = plan_recurrent(
            [
                self.layers,
                self.hidden,
                blocks[0].roles[-1].linear.in_features,
                self.vocabulary,
                *self._sizes(blocks[0]),
            ],
            [norm.eps for norm in norms],
            self._tables,
            [tensor.detach() for norm in norms for tensor in (norm.weight, norm.bias)],
            [plan.arguments for plan in self._plans],
            self._vectors,
        )
        self.seconds = torch.zeros(len(PARTS), dtype=torch.float64)

    def _sizes(self, block: Block) -> list[int]:
        """Heads, and the ranks of what mixes and decay are computed of."""
        return [0, 0, 0]

    def _copied(self, block: Block) -> list[Tensor]:
        """Parameters of which the plan has other numbers."""
        return [block.parameter(block.names.decay)]

    def _recurrence(self, block: Block) -> list[Tensor]:
        """What the plan has behind the vectors of a block's linears: w and u."""
        return [block.parameter(block.names.decay).exp(), block.parameter(block.names.bonus).detach()]

    @property
    def has_head(self) -> bool:
        """Whether it can give logits."""
        return self._tables[1] is not None

    def holds(self) -> bool:
        """Whether the model's tensors and settings still are what they were."""
        config = self._config
        return self._held.hold() and config.num_hidden_layers == self.layers and self._is_set()

    def _is_set(self) -> bool:
        return bool(self._config.rescale_every == 0)

    def state(self, slots: int) -> list[Tensor]:
        """What is remembered of so many sequences before their first token, as transformers has it.

        Five float32 tensors [slots, hidden, layers]: last inputs of channel and of time mixing; numerator, denominator
        and exponent of the recurrence. They are views of one piece of memory, in which channels lie beside each other.
        """
        memory = large_empty((5, self.layers, slots, self.hidden), torch.float32).zero_()
        memory[4] = EMPTY
        return list(memory.permute(0, 2, 3, 1))

    def reads(self, state: Iterable[Tensor]) -> bool:
        """Whether the parts of a state lie as those of `state` do."""
        return all(part.permute(2, 0, 1).is_contiguous() for part in state)

    def forward(
        self, tokens: Tensor, texts: Iterable[RecurrentSequence], state: list[Tensor], wanted: Tensor, *, logits: bool
    ) -> Tensor:
        """Go on with some sequences.

        Args:
            tokens: int64 [T], of all texts, one after the other.
            texts: of at least one token each, in slots of their own.
            state: what was said before, as `state` made it; it is written to.
            wanted: int64 [R], rows of `tokens`, ascending.
            logits: whether logits are wanted, or what the head reads (behind the last norm).

        Returns:
            float32 [R, vocabulary] or [R, hidden].

        Raises:
            RuntimeError: a token that the model does not know, or a state of other sizes.
        """
        return in_pieces(
            lambda some, rows, wanted: run_recurrent(
                self._plan, some, rows, state, wanted, logits, self.seconds, (0, self.layers), NOTHING, NOTHING
            ),
            tokens,
            texts,
            wanted,
        )

    def layer_by_layer(
        self, tokens: Tensor, texts: Iterable[RecurrentSequence], state: list[Tensor], out: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """A forward, block by block, with what is computed on the way.

        Args:
            tokens, texts, state: as of `forward`; not cut into pieces.
            out: float32 [T, hidden], filled with what the head reads; None: nobody asks.

        Returns:
            of one block after the other, float32 [T, width] by the names in `names`:
            `input` of the block; `normed`; what the linears read (see
            `reads_of`: `gated` is output's, `product` the channel value's) and what they give; `middle` between the
            two halves; `channel normed`. The next block overwrites them.
        """
        inner = self._plans[-1].in_features
        widths = {name: inner if name in ("channel key", "product") else self.hidden for name in self.names}
        return by_layer(
            lambda rows, wanted, some, stream, trace: run_recurrent(
                self._plan, tokens, rows, state, wanted, False, self.seconds, some, stream, trace
            ),
            texts, self.layers, widths, out,
        )  # fmt: skip


def _cells(block: Block) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the vectors of a block are looked up."""
    for name in block.own:
        yield block.attention._parameters, name
    for role in block.roles:
        if role.mix is not None:
            yield role.owner._parameters, role.mix
        encoder = role.linear.encoder
        yield vars(encoder), "center"
        if encoder.center is not None:
            yield encoder.center._parameters, "bias"
        if (holder := encoder.held_by.get("input_balance")) is not None:
            yield holder._buffers if "input_balance" in holder._buffers else holder._parameters, "input_balance"


def _prepared(block: Block) -> Iterator[Tensor | None]:
    """What each linear's input is mixed by, its center and its balance."""
    for role in block.roles:
        encoder = role.linear.encoder
        mix = None if role.mix is None else role.owner._parameters[role.mix].detach()
        yield 1 - mix if mix is not None and block.names.of_before else mix
        yield None if encoder.center is None else encoder.center.bias.detach()
        balance = encoder.held("input_balance")
        yield None if balance is None else balance.detach()
