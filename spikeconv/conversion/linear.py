"""One linear, converted: `Q(W D Hᵀ)`, packed (SDLLM, section 4.1; METHOD: γ stays on the activation side).

QuaRot differs only in that γ is folded into the weight first: rotating the γ-less output of the norm online gives the
same numbers as rotating the residual stream offline, so that everything else in the model stays as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikeconv.config import LinearScheme
from spikeconv.rotation import Rotation
from spikeconv.weights import quantize_rtn

__all__ = ["ConvertedLinear", "convert_linear", "rotated_weight"]


@dataclass(frozen=True)
class ConvertedLinear:
    """Tensors of a converted linear by buffer name, and ‖Ŵ - W‖ / ‖W‖ of its rotated weight."""

    tensors: dict[str, Tensor]
    relative_error: float


def convert_linear(
    weight: Tensor,
    scheme: LinearScheme,
    gamma: Tensor | None = None,
    center: Tensor | None = None,
    threshold: float | None = None,
    balance: Tensor | None = None,
) -> ConvertedLinear:
    """Rotate, round and pack a weight [out, in] of any float dtype.

    Args:
        weight: the float weight.
        scheme: its settings.
        gamma: [in], folded into the weight first (QuaRot).
        center: [in], c of W x = W (x - c) + W c: what will be taken off the input. W c becomes the bias.
        threshold: τ, where the scheme clips.
        balance: d [in], which the encoder will multiply the input by: W is divided by it.
    """
    # In float64, so that the order of the sum does not show in the last bit.
    others = {} if center is None else {"bias": (weight.double() @ center.double()).float()}
    if scheme.clip is not None and threshold is not None:
        others["input_threshold"] = torch.tensor([threshold], dtype=torch.float32)
    if balance is not None:
        others["input_balance"] = balance.float()
    rotated = rotated_weight(weight, scheme, gamma, balance)
    if scheme.weights.is_float:
        return ConvertedLinear({"weight": rotated.to(weight.dtype)[:, None].contiguous(), **others}, 0.0)
    quantized = quantize_rtn(rotated, scheme.weights.bits, scheme.weights.clip == "mse")
    tensors = {"weight": quantized.packed, "weight_scale": quantized.scale, **others}
    if not scheme.inputs.symmetric:
        tensors["weight_sum"] = quantized.sum
    return ConvertedLinear(tensors, quantized.relative_error)


def rotated_weight(
    weight: Tensor, scheme: LinearScheme, gamma: Tensor | None = None, balance: Tensor | None = None
) -> Tensor:
    """W D Hᵀ [out, in] float32 before it is rounded, first times γ [in] and divided by d [in] if there is either."""
    rotated = weight.float() if gamma is None else weight.float() * gamma.float()
    rotated = rotated if balance is None else rotated / balance
    return rotated if scheme.rotation.is_none else Rotation(weight.shape[1], scheme.rotation.seed)(rotated)
