"""The engine of an RWKV-6: data decides what each token is mixed by and how fast the state decays."""

from typing import Any

import torch
from torch import Tensor

from spikeconv.engine.recurrent import MIXED, RecurrentEngine
from spikeconv.engine.recurrent_parts import Block, blocks_of
from spikeconv.families import DataMixingBlock
from spikeconv.nn.memory import large_empty

__all__ = ["DataMixingEngine", "recurrent_engine"]

READS = (*MIXED[:3], "gate input", *MIXED[3:])
"""What the groups of a block read, as `MIXED`."""


class DataMixingEngine(RecurrentEngine):
    """A converted RWKV-6 on a CPU, in float32, as one native object: as `RecurrentEngine`, with another state.

    Its small products of floats add up in an order that depends on how many tokens there are, so the bits of a text do.
    """

    names = (
        *("input", "normed", "decay input", "decay", *READS[:4], "key", "value", "receptance", "gate"),
        *("heads", "gated", "output", "middle", "channel normed", *READS[5:7], "channel key", "channel receptance"),
        *("product", "channel value"),
    )
    reads_of = READS

    def __init__(self, model: Any, head_bits: int | None = None) -> None:
        attention = blocks_of(model)[1][0].attention
        self.heads, self.head_size = attention.heads, attention.head_size
        super().__init__(model, head_bits)

    def state(self, slots: int) -> list[Tensor]:
        """What is remembered of so many sequences before their first token.

        Last inputs of channel and of time mixing, views float32 [slots, hidden, layers] in which channels lie side by
        side; a matrix for each head, [layers, slots, heads, head_size, head_size].
        """
        shifts = torch.zeros(2, self.layers, slots, self.hidden)
        shape = (self.layers, slots, self.heads, self.head_size, self.head_size)
        return [*shifts.permute(0, 2, 3, 1), large_empty(shape, torch.float32).zero_()]

    def reads(self, state: Any) -> bool:
        """Whether the parts of a state lie as those of `state` do."""
        return super().reads(state[:2]) and bool(state[2].is_contiguous())

    def _sizes(self, block: Block) -> list[int]:
        names = _names(block)
        return [self.heads, block.parameter(names.up).shape[1], block.parameter(names.decay_down).shape[1]]

    def _copied(self, block: Block) -> list[Tensor]:
        names = _names(block)
        low_rank = (names.first, names.down, names.up, names.decay_down, names.decay_up, *names.mixes)
        mixes = [role.owner._parameters[role.mix] for role in block.roles if role.mix is not None]
        return [*(block.parameter(name) for name in low_rank), *mixes]

    def _recurrence(self, block: Block) -> list[Tensor]:
        """Decay, u and the mix of what the others are computed of; then matrices by rows of what comes out of them."""
        names = _names(block)
        return [
            block.parameter(names.decay).detach(),
            block.parameter(names.bonus).detach(),
            1 - block.parameter(names.first),
            block.parameter(names.down).t().contiguous(),
            block.parameter(names.up).transpose(1, 2).contiguous(),
            torch.cat([block.parameter(name).flatten() for name in names.mixes]),
            block.parameter(names.decay_down).t().contiguous(),
            block.parameter(names.decay_up).t().contiguous(),
        ]

    def _is_set(self) -> bool:
        return True


def recurrent_engine(model: Any) -> RecurrentEngine:
    """The engine of a recurrent model without an obstacle."""
    is_mixed_by_data = isinstance(blocks_of(model)[1][0].names, DataMixingBlock)
    return DataMixingEngine(model) if is_mixed_by_data else RecurrentEngine(model)


def _names(block: Block) -> DataMixingBlock:
    assert isinstance(block.names, DataMixingBlock)
    return block.names
