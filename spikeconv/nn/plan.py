"""A whole group in one native call: its arguments in one piece, for as long as they hold.

At one token taking the arguments of `encode` and `linears` apart takes longer than their work, so the CPU's kernels
take them as one tensor of bytes that points to weights, scales, sums, biases, a norm's weight and a rotation.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codecs import CountCodec
from spikeconv.nn.products import has_fused, operands_of
from spikeconv.ops import native

if TYPE_CHECKING:
    from spikeconv.nn.group import SpikeGroup

__all__ = ["GroupPlan", "plan_of"]

MOST_MEMBERS = 8
"""Linears that a native plan takes."""


class GroupPlan:
    """A group's arguments as the native kernels take them, and everything that they point to.

    It holds for the same tensor objects, each at the address it had, and for the same settings of the encoder. What it
    points to cannot be freed while it lives, so nothing else can come to lie at one of its addresses.

    Attributes:
        cells: where each tensor is looked up, under which name, the tensor (or None) and its address (or -1).
        in_features: of the linears.
        arguments: what `ops.native.run_group` takes.
    """

    __slots__ = ("_members", "_rotation", "_settings", "_storages", "arguments", "cells", "in_features")

    def __init__(self, group: "SpikeGroup", codec: CountCodec) -> None:
        encoder, first = group.encoder, group.members[0]
        self.in_features = first.in_features
        self._members = list(group.members)
        self._settings = _settings(group)
        owners = [cell for linear in group.members for cell in linear.cells()]
        if encoder.norm is not None:
            owners.append((encoder.norm._parameters, "weight"))
        if (clipping := encoder.held_by.get("input_threshold")) is not None:
            owners.append((clipping._buffers, "input_threshold"))
        # Where each tensor is looked up (any may be replaced), and what was found there.
        self.cells = [(owner, name, owner[name], _address(owner[name])) for owner, name in owners]
        # `x.data = y` moves a tensor object elsewhere, and would free what the plan points to.
        self._storages = [tensor.untyped_storage() for _, _, tensor, _ in self.cells if tensor is not None]
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
        """Whether the group still is what the plan was made of: the same tensors, and the same settings."""
        for owner, name, tensor, address in self.cells:
            if owner[name] is not tensor or (tensor is not None and tensor.data_ptr() != address):
                return False
        return self.fits(group)

    def fits(self, group: "SpikeGroup") -> bool:
        """Whether the group has the linears and the settings that the plan was made of, whatever their tensors."""
        return self._settings == _settings(group) and self._members == group.members


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


def _settings(group: "SpikeGroup") -> tuple[Any, ...]:
    """What a plan holds by value."""
    encoder = group.encoder
    norm = encoder.norm
    epsilon = 0.0 if norm is None else norm.epsilon
    return encoder.codec, encoder.rotation, norm, epsilon, group.members[0].execution


def _address(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor.data_ptr()
