"""Linears that see the same input (q, k, v; gate, up): encoded once, multiplied at once."""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs import CountCodec
from spikeconv.config import LinearScheme
from spikeconv.nn.encoder import Encoder, FoldedNorm
from spikeconv.ops.native import load, plan_group, run_group

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["SpikeGroup"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MOST_MEMBERS = 8
"""Linears that a native plan takes."""


class _Last(NamedTuple):
    """The latest input (held weakly, so that it is not kept alive) and the outputs not yet fetched, by member."""

    source: "weakref.ref[Tensor]"
    version: int | None
    outputs: dict[int, Tensor]


class _Plan(NamedTuple):
    """A group's arguments as the native kernels take them in one piece (None: they cannot), and what they hold for."""

    key: list[object]
    arguments: Tensor | None


class SpikeGroup:
    """The linears of one input, which agree on the scheme of their weights and counts.

    The first member to be called computes the outputs of all, the others are handed theirs. Members called with
    another tensor, or with one that was changed in place since, compute anew, so sharing never changes a result.
    (Inference tensors carry no version: a change in place between two members goes unseen there. No supported model
    makes one.)
    """

    def __init__(
        self, in_features: int, scheme: LinearScheme, norm: FoldedNorm | None = None, center: Any = None
    ) -> None:
        self.encoder = Encoder(in_features, scheme, norm, center)
        self.members: list[SpikeLinear] = []
        self.zero_share = 0.0  # measured share of zero counts; 0 until it is measured
        self._last: _Last | None = None
        self._plan: _Plan | None = None

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
        outputs = self._products(self.encoder.centered(x), members)
        return outputs if self.encoder.center is None else [y.to(x.dtype) for y in outputs]

    def _products(self, x: Tensor, members: "list[SpikeLinear]") -> list[Tensor]:
        if self._takes_plan(x, members) and (plan := self.plan()) is not None:
            return run_group(x, plan)
        encoding = self.encoder.encode(x)
        spikes, codec, first = encoding.spikes, self.encoder.codec, members[0]
        if spikes is None or codec is None or first.weight_scale is None:
            return [linear.float_product(encoding).to(x.dtype) for linear in members]
        if spikes.stacked or first.execution == "unfold":  # the latter for proof only; no fused op
            accumulators = (linear.accumulate(encoding, first.execution) for linear in members)
            return [linear.scaled(acc, encoding, x.dtype) for linear, acc in zip(members, accumulators, strict=True)]
        outputs: list[Tensor] = ops.linears(
            spikes.counts,
            spikes.scale,
            spikes.zero_point,
            *_operands(members),
            first.scheme.weight_bits,
            codec.largest_count,
            x.dtype,
            first.execution,
        )
        return outputs

    def _takes_plan(self, x: Tensor, members: "list[SpikeLinear]") -> bool:
        return (
            len(members) == len(self.members)
            and not torch.compiler.is_compiling()
            and type(x) is Tensor  # not a fake tensor or the like
            and x.is_cpu
            and x.dtype in FLOATS
        )

    def plan(self) -> Tensor | None:
        """What runs the whole group in one native call on the CPU; None where its steps must run one by one.

        Tensors may be replaced, moved or converted at any time: a plan is good for the addresses that it was made for.
        """
        if self.encoder.observer is not None:
            return None
        key: list[object] = [self.members[0].execution]
        for linear in self.members:
            key += [tensor if tensor is None else tensor.data_ptr() for tensor in linear.tensors()]
        if self.encoder.norm is not None:
            key.append(self.encoder.norm.weight.data_ptr())
        if self._plan is None or self._plan.key != key:
            self._plan = _Plan(key, self._make_plan())
        return self._plan.arguments

    def _make_plan(self) -> Tensor | None:
        first, codec = self.members[0], self.encoder.codec
        if not isinstance(codec, CountCodec):
            return None
        possible = (
            first.weight_scale is not None
            and first.weight.is_cpu
            and first.layout != "packed"
            and first.execution != "unfold"
            and len(self.members) <= MOST_MEMBERS
            and load("cpu").is_native
        )
        if not possible:
            return None
        return plan_group(
            first.in_features,
            *codec.arguments(torch.device("cpu"), self.encoder.rotation, self.encoder.folded()),
            *_operands(self.members),
            first.scheme.weight_bits,
            codec.largest_count,
            first.execution,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_plan": None}


def _operands(members: "list[SpikeLinear]") -> tuple[list[Tensor], ...]:
    """Weights, their scales, their sums (or none) and biases (or none) of linears that agree on the scheme."""
    lists = zip(*(linear.tensors() for linear in members), strict=True)
    return tuple([] if tensors[0] is None else list(tensors) for tensors in lists)
