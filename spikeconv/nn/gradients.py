"""Gradients, straight through the rounding.

    y = W_q k̂(u),  u = clip(R · RMSNorm(x)),  k̂ = decode(encode(·))          ∂y/∂u := W_q

Everything but the rounding keeps its own gradient: what a clip cuts off has none, a rotation's is the transposed one.
Packed weights are frozen; inputs and all parameters that stay float (biases, norms) train.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.rotation import Rotation
from spikeconv.weights import dequantize

if TYPE_CHECKING:
    from spikeconv.nn.linear import SpikeLinear

__all__ = ["attention", "flow", "product", "rotated", "straight", "turned_back", "version_of"]


def flow(*tensors: Tensor | None) -> bool:
    """Whether gradients are wanted with respect to any of the tensors; an exported program has none."""
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def version_of(x: Tensor) -> int | None:
    """Changes with every change of a tensor in place; None where that is not counted, in inference mode."""
    return None if x.is_inference() else x._version


def straight(value: Tensor, source: Tensor) -> Tensor:
    """The value, with gradients passed on to `source` as if it were that."""
    result: Tensor = _Straight.apply(source, value)
    return result


def product(u: Tensor, value: Tensor, linear: "SpikeLinear") -> Tensor:
    """The value [..., out], W_q k̂(u), with the gradient of W_q u; the packed weight is kept, not a float one."""
    shape = (linear.out_features, linear.in_features, linear.scheme.weights.bits)
    result: Tensor = _Product.apply(u, value, linear.weight, linear.weight_scale, *shape)
    return result


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """rotation(x), with its gradient."""
    result: Tensor = _Rotated.apply(x, rotation, False)
    return result


def turned_back(u: Tensor, rotation: Rotation) -> Tensor:
    """rotation.inverse(u), with its gradient."""
    result: Tensor = _Rotated.apply(u, rotation, True)
    return result


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(scaling · q kᵀ + mask) v in plain torch and float32.

    Args:
        query: [batch, heads, tokens, head_dim].
        keys, values: [batch, key heads, length, head_dim]; heads are a multiple of key heads.
        mask: added to the scores, or None.
        scaling: what the scores are multiplied by.
    """
    repeats = query.shape[1] // keys.shape[1]
    keys, values = (states.repeat_interleave(repeats, 1) for states in (keys, values))
    scores = query.float() @ keys.mT * scaling
    return (scores if mask is None else scores + mask.float()).softmax(-1) @ values


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        value: Tensor,
        weight: Tensor,
        scale: Tensor,
        out_features: int,
        in_features: int,
        bits: int,
    ) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.shape = out_features, in_features, bits
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return gradients[0] @ dequantize(ops.unpack_arranged(weight, *ctx.shape), scale), *(None,) * 6


class _Rotated(torch.autograd.Function):
    """A rotation (or its inverse); the transposed one carries the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotation: Rotation, inverse: bool) -> Tensor:
        ctx.rotation, ctx.inverse, ctx.dtype = rotation, inverse, x.dtype
        return rotation.inverse(x) if inverse else rotation(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient: Tensor = _Rotated.apply(gradients[0], ctx.rotation, not ctx.inverse)
        return gradient.to(ctx.dtype), None, None
