"""Linears that see the same input (q, k, v; gate, up): encoded once, multiplied at once."""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.config import LinearScheme
from spikeconv.nn.encoder import Encoder, FoldedNorm

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["SpikeGroup"]


class _Last(NamedTuple):
    """The latest input (held weakly, so that it is not kept alive) and the outputs not yet fetched, by member."""

    source: "weakref.ref[Tensor]"
    version: int | None
    outputs: dict[int, Tensor]


class SpikeGroup:
    """The linears of one input, which agree on the scheme of their weights and counts.

    The first member to be called computes the outputs of all, the others are handed theirs. Members called with
    another tensor, or with one that was changed in place since, compute anew, so sharing never changes a result.
    (Inference tensors carry no version: a change in place between two members goes unseen there. No supported model
    makes one.)
    """

    def __init__(self, in_features: int, scheme: LinearScheme, norm: FoldedNorm | None = None) -> None:
        self.encoder = Encoder(in_features, scheme, norm)
        self.members: list[SpikeLinear] = []
        self.zero_share = 0.0  # measured share of zero counts; 0 until it is measured
        self._last: _Last | None = None

    def output(self, member: "SpikeLinear", x: Tensor) -> Tensor:
        """The output of one member for x [..., in_features]."""
        if len(self.members) < 2 or torch.compiler.is_compiling():  # a compiler merges equal encodes itself
            return self.products(x, [member])[0]
        version = None if x.is_inference() else x._version
        last = self._last
        if last is None or last.source() is not x or last.version != version or id(member) not in last.outputs:
            outputs = dict(zip(map(id, self.members), self.products(x, self.members), strict=True))
            last = self._last = _Last(weakref.ref(x), version, outputs)
        y = last.outputs.pop(id(member))
        if not last.outputs:
            self._last = None
        return y

    def products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        """Encode x and multiply it by the weights of some members."""
        return members[0].products(self.encoder(x), members, x.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}
