"""The outputs of linears that share an encoded input: s · s_w · (acc - z · Σ W) + b, or W û + b in floats."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.nn.encoder import Encoder, Encoding
from spikeconv.nn.gradients import flow, product

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["differentiable_outputs", "has_fused", "operands_of", "outputs_of"]


def outputs_of(members: "list[SpikeLinear]", encoding: Encoding, dtype: torch.dtype) -> list[Tensor]:
    """One output [..., out] for each of some linears that agree on the scheme."""
    if _are_fused(members, encoding):
        return _fused(members, encoding, dtype, with_bias=True)
    return [linear.with_bias(linear.product(encoding), dtype) for linear in members]


def differentiable_outputs(encoder: Encoder, members: "list[SpikeLinear]", x: Tensor) -> list[Tensor]:
    """The same for x [..., n], bit for bit, in steps that gradients pass (see `gradients`)."""
    u = encoder.potential(x)
    is_packed = members[0].weight_scale is not None
    with torch.no_grad():
        encoding = encoder.rounded(u)
        values = _products_of(members, encoding) if is_packed else []
    if is_packed:
        through = encoder.through(u) if flow(u) else None
        pairs = zip(values, members, strict=True)
        products = values if through is None else [product(through, y, linear) for y, linear in pairs]
    else:
        potential = u if encoding.spikes is None else encoder.through(u, encoding.spikes.decode())
        products = [linear.float_product(potential) for linear in members]
    return [linear.with_bias(y, x.dtype) for y, linear in zip(products, members, strict=True)]


def operands_of(members: "list[SpikeLinear]") -> list[Tensor | None]:
    """Weight, scale, sum and bias of one linear after the other."""
    return [tensor for linear in members for tensor in linear.tensors()]


def _products_of(members: "list[SpikeLinear]", encoding: Encoding) -> list[Tensor]:
    if _are_fused(members, encoding):
        return _fused(members, encoding, torch.float32, with_bias=False)
    return [linear.product(encoding) for linear in members]


def has_fused(members: "list[SpikeLinear]") -> bool:
    """Whether one op multiplies by all members: not to unfold, which is for proof, nor by events from tiles."""
    execution = members[0].execution
    return execution != "unfold" and (execution != "events" or all(linear.layout != "tiles" for linear in members))


def _are_fused(members: "list[SpikeLinear]", encoding: Encoding) -> bool:
    spikes, first = encoding.spikes, members[0]
    if spikes is None or spikes.has_planes or first.weight_scale is None:
        return False
    return has_fused(members)


def _fused(members: "list[SpikeLinear]", encoding: Encoding, dtype: torch.dtype, with_bias: bool) -> list[Tensor]:
    spikes, first = encoding.spikes, members[0]
    assert spikes is not None and first.encoder.codec is not None
    operands = operands_of(members)
    if not with_bias:
        operands[3::4] = [None] * len(members)
    settings = ops.ProductSettings(first.scheme.weights.bits, first.encoder.codec.largest_count, first.execution)
    outputs: list[Tensor] = ops.linears(
        spikes.counts, spikes.scale, spikes.zero_point, operands, settings.table(), dtype
    )
    return outputs
