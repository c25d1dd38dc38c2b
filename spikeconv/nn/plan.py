"""A whole group in one native call: its arguments in one piece, for as long as they hold.

At one token taking the arguments of `encode` and `linears` apart takes longer than their work, so the CPU's kernels
take them as one tensor of bytes that points to weights, scales, sums, biases, a norm's weight and a rotation.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs import CountCodec
from spikeconv.nn.products import has_fused, operands_of
from spikeconv.ops import native
from spikeconv.ops.places import Place, Places

if TYPE_CHECKING:
    from spikeconv.nn.group import SpikeGroup

__all__ = ["Cells", "GroupPlan", "plan_of"]

MOST_MEMBERS = 8
"""Linears that a native plan takes."""


class Cells:
    """What a native plan was made of; it holds as long as all is the same, each tensor at the address that it had.

    Nothing of it is freed meanwhile, so nothing else can come to lie at one of those addresses: `x.data = y` moves a
    tensor object elsewhere, and would free what the plan points to.

    Args:
        keys: dictionaries, and the names of what is in them.
    """

    def __init__(self, keys: Iterable[tuple[dict[str, Any], str]]) -> None:
        self.keys = list(keys)
        found = [Place(owner, name, owner[name]) for owner, name in self.keys]
        self._tensors = [place.value for place in found if isinstance(place.value, Tensor)]
        self._places = Places(found, read_next=self._tensors)
        self._addresses = self._now()
        self._storages = [tensor.untyped_storage() for tensor in self._tensors]

    def hold(self) -> bool:
        """Whether all is the same. (A model has a thousand cells, and a token a few milliseconds.)"""
        return self._places.hold() and self._now() == self._addresses

    def _now(self) -> list[int]:
        return list(map(Tensor.data_ptr, self._tensors))


class GroupPlan:
    """A group's arguments as the native kernels take them, and everything that they point to.

    Attributes:
        cells: what it was made of: tensors, and settings of the encoder.
        in_features: of the linears.
        arguments: what `ops.native.run_group` takes.
    """

    __slots__ = ("_members", "_rotation", "arguments", "cells", "in_features")

    def __init__(self, group: "SpikeGroup", codec: CountCodec) -> None:
        encoder, first = group.encoder, group.members[0]
        self.in_features = first.in_features
        self._members = list(group.members)
        places = [cell for linear in group.members for cell in linear.cells()]
        places += [(vars(encoder), name) for name in ("codec", "rotation", "norm")]
        places += [(vars(linear), "execution") for linear in group.members]
        if encoder.norm is not None:
            places += [(encoder.norm._parameters, "weight"), (vars(encoder.norm), "epsilon")]
        if (clipping := encoder.held_by.get("input_threshold")) is not None:
            places.append((clipping._buffers, "input_threshold"))
        self.cells = Cells(places)
        self._rotation = [] if encoder.rotation is None else encoder.rotation.on(torch.device("cpu"))
        norm = encoder.folded()
        self.arguments: Tensor = native.plan_group(
            first.in_features,
            self._rotation,
            None if norm is None else norm.weight,
            encoder.threshold,
            codec.settings(norm).table(),
            operands_of(group.members),
            ops.ProductSettings(first.scheme.weights.bits, codec.largest_count, first.execution).table(),
        )

    def holds(self, group: "SpikeGroup") -> bool:
        """Whether the group still is what the plan was made of."""
        return self.cells.hold() and self._members == group.members


def plan_of(group: "SpikeGroup") -> GroupPlan | None:
    """A plan for a group on the CPU; None where its steps must run one by one."""
    codec, first = group.encoder.codec, group.members[0]
    if not isinstance(codec, CountCodec) or first.weight_scale is None or not has_fused(group.members):
        return None
    possible = (
        len(group.members) <= MOST_MEMBERS
        and all(linear.weight.is_cpu and linear.layout != "packed" for linear in group.members)
        and native.ready("cpu").is_native
    )
    return GroupPlan(group, codec) if possible else None
