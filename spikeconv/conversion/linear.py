"""One linear, converted: `Q(W D Hᵀ)`, packed (SDLLM, section 4.1; METHOD: γ stays on the activation side).

QuaRot differs only in that γ is folded into the weight first: rotating the γ-less output of the norm online gives the
same numbers as rotating the residual stream offline, so that everything else in the model stays as it is.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikeconv.config import LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.rotation import Rotation
from spikeconv.weights import QuantizedWeight, Statistics, quantize_calibrated, quantize_rtn

__all__ = ["ConvertedLinear", "convert_linear", "rotated_weight"]


@dataclass(frozen=True)
class ConvertedLinear:
    """A converted linear.

    Attributes:
        tensors: by buffer name.
        relative_error: ‖Ŵ - W‖ / ‖W‖ of its rotated weight.
        output_error: where it was calibrated, the same of the outputs that rounding changed (see `CalibratedWeight`).
        damping: where it was calibrated, the damping that its Hessian was factored with.
    """

    tensors: dict[str, Tensor]
    relative_error: float
    output_error: float | None = None
    damping: float | None = None


def convert_linear(
    weight: Tensor,
    scheme: LinearScheme,
    gamma: Tensor | None = None,
    center: Tensor | None = None,
    threshold: float | None = None,
    balance: Tensor | None = None,
    statistics: Statistics | None = None,
    bias: Tensor | None = None,
) -> ConvertedLinear:
    """Rotate, round and pack a weight [out, in] of any float dtype.

    Args:
        weight: the float weight.
        scheme: its settings.
        gamma: [in], folded into the weight first (QuaRot).
        center: [in], c of W x = W (x - c) + W c: what will be taken off the input. W c becomes the bias.
        threshold: τ, where the scheme clips.
        balance: d [in], which the encoder will multiply the input by: W is divided by it.
        statistics: of its inputs, where the scheme is calibrated.
        bias: the source's [out], where a correction is added to it.
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
    settings = scheme.weights
    if settings.is_calibrated:
        if statistics is None:
            raise SpikeconvError(f"weights={settings.method} needs a calibration text, and none was read.")
        return _calibrated(rotated, scheme, statistics, others, bias)
    quantized = quantize_rtn(rotated, settings.bits, settings.clip == "mse")
    return ConvertedLinear(_tensors(quantized, scheme, others), quantized.relative_error)


def _calibrated(
    rotated: Tensor, scheme: LinearScheme, statistics: Statistics, others: dict[str, Tensor], bias: Tensor | None
) -> ConvertedLinear:
    settings = scheme.weights
    assert settings.method != "rtn"
    found = quantize_calibrated(
        rotated,
        statistics if settings.residual else replace(statistics, residual=None, residuals=None),
        settings.bits,
        settings.method,
        damping=settings.damping,
        search_clip=settings.clip == "mse",
        with_bias=settings.has_bias,
    )
    if found.bias is not None:
        others = {**others, "bias": found.bias if bias is None else found.bias + bias.float()}
    tensors = _tensors(found.quantized, scheme, others)
    return ConvertedLinear(tensors, found.quantized.relative_error, found.output_error, found.damping)


def _tensors(quantized: QuantizedWeight, scheme: LinearScheme, others: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {"weight": quantized.packed, "weight_scale": quantized.scale, **others}
    if not scheme.inputs.symmetric:
        tensors["weight_sum"] = quantized.sum
    return tensors


def rotated_weight(
    weight: Tensor, scheme: LinearScheme, gamma: Tensor | None = None, balance: Tensor | None = None
) -> Tensor:
    """W D Hᵀ [out, in] float32 before it is rounded, first times γ [in] and divided by d [in] if there is either."""
    rotated = weight.float() if gamma is None else weight.float() * gamma.float()
    rotated = rotated if balance is None else rotated / balance
    return rotated if scheme.rotation.is_none else Rotation(weight.shape[1], scheme.rotation.seed)(rotated)
