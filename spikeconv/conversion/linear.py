"""One linear, converted: `Q(W D Hᵀ)`, packed (SDLLM, section 4.1; METHOD: γ stays on the activation side).

QuaRot differs only in that γ is folded into the weight first: rotating the γ-less output of the norm online gives the
same numbers as rotating the residual stream offline, so that everything else in the model stays as it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spikeconv.config import LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.nn import packed_row_sums
from spikeconv.rotation import Rotation
from spikeconv.weights import QuantizedWeight, Statistics, quantize_blocks, quantize_calibrated, rounding_of

__all__ = ["BLOCK", "Calibrated", "ConvertedLinear", "convert_blocks", "convert_linear", "rotated_weight"]

BLOCK = 1 << 18
"""Weights that are rotated and rounded at a time."""


@dataclass(frozen=True)
class Calibrated:
    """What a text said of a linear.

    Attributes:
        threshold: τ, where the scheme clips.
        balance: d [in], which the encoder will multiply the input by: W is divided by it.
        salient: uint8 [in], 1 in the channels that get more bits (codec gif).
        outputs: uint8 [out], the same of its outputs, where they are keys or values with salient channels.
        alpha: float32 [T], what a spike of the neurons in front is worth (codecs elastic and lif).
        output_alpha: float32 [T], the same of neurons behind keys and values.
    """

    threshold: float | None = None
    balance: Tensor | None = None
    salient: Tensor | None = None
    outputs: Tensor | None = None
    alpha: Tensor | None = None
    output_alpha: Tensor | None = None

    def to(self, device: torch.device) -> "Calibrated":
        """The same on a device."""
        tensors = self.balance, self.salient, self.outputs, self.alpha, self.output_alpha
        return Calibrated(self.threshold, *(None if each is None else each.to(device) for each in tensors))

    def tensors(self) -> dict[str, Tensor]:
        """By buffer name, as a checkpoint holds them."""
        threshold = None if self.threshold is None else torch.tensor([self.threshold], dtype=torch.float32)
        balance = None if self.balance is None else self.balance.float()
        named = {"input_threshold": threshold, "input_balance": balance, "input_salient": self.salient}
        named |= {"output_salient": self.outputs, "input_alpha": self.alpha, "output_alpha": self.output_alpha}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


NOTHING = Calibrated()


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
    held: Calibrated = NOTHING,
    statistics: Statistics | None = None,
    bias: Tensor | None = None,
) -> ConvertedLinear:
    """Rotate, round and pack a weight [out, in] of any float dtype.

    Args:
        weight: the float weight.
        scheme: its settings.
        gamma: [in], folded into the weight first (QuaRot).
        center: [in], c of W x = W (x - c) + W c: what will be taken off the input. W c becomes the bias.
        held: what was calibrated of it.
        statistics: of its inputs, where the scheme is calibrated.
        bias: the source's [out], where a correction or a constant part is added to it.
    """
    settings = scheme.weights
    if not settings.is_float and not settings.is_calibrated:
        blocks = weight.split(max(1, BLOCK // weight.shape[1]))
        return convert_blocks(blocks, len(weight), scheme, gamma, center, held, bias)
    others = _others(None if center is None else [_times(weight, center)], held, bias)
    rotated = rotated_weight(weight, scheme, gamma, held.balance)
    if settings.is_float:
        return ConvertedLinear({"weight": rotated.to(weight.dtype)[:, None].contiguous(), **others}, 0.0)
    if statistics is None:
        raise SpikeconvError(f"weights={settings.method} needs a calibration text, and none was read.")
    return _calibrated(rotated, scheme, statistics, others, bias, held.salient)


def convert_blocks(
    blocks: Iterable[Tensor],
    rows: int,
    scheme: LinearScheme,
    gamma: Tensor | None = None,
    center: Tensor | None = None,
    held: Calibrated = NOTHING,
    bias: Tensor | None = None,
) -> ConvertedLinear:
    """The same for a weight [rows, in] that comes block by block and is rounded to the nearest.

    A row is rotated and rounded by itself, so that a block of `BLOCK` weights never leaves the cache and no matrix of
    floats has to be in memory as a whole.
    """
    constant: list[Tensor] | None = None if center is None else []

    def rotated() -> Iterator[Tensor]:
        for block in blocks:
            if center is not None and constant is not None:
                constant.append(_times(block, center))
            yield rotated_weight(block, scheme, gamma, held.balance)

    quantized = quantize_blocks(rotated(), rows, rounding_of(scheme.weights))
    return ConvertedLinear(
        _tensors(quantized, scheme, _others(constant, held, bias), held.salient), quantized.relative_error
    )


def _times(weight: Tensor, center: Tensor) -> Tensor:
    """W c, in float64, so that the order of the sum does not show in the last bit."""
    return (weight.double() @ center.double()).float()


def _others(constant: list[Tensor] | None, held: Calibrated, bias: Tensor | None) -> dict[str, Tensor]:
    """What goes with a weight: the constant part of the output, added to the bias, and what was calibrated."""
    if constant is None:
        return held.tensors()
    total = torch.cat(constant)
    return held.tensors() | {"bias": total if bias is None else total + bias.float()}


def _calibrated(
    rotated: Tensor,
    scheme: LinearScheme,
    statistics: Statistics,
    others: dict[str, Tensor],
    bias: Tensor | None,
    salient: Tensor | None,
) -> ConvertedLinear:
    settings = scheme.weights
    assert settings.method in ("gptq", "gptaq", "qronos")
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
    tensors = _tensors(found.quantized, scheme, others, salient)
    return ConvertedLinear(tensors, found.quantized.relative_error, found.output_error, found.damping)


def _tensors(
    quantized: QuantizedWeight, scheme: LinearScheme, others: dict[str, Tensor], salient: Tensor | None
) -> dict[str, Tensor]:
    tensors = {"weight": quantized.packed, "weight_scale": quantized.scale, **others}
    if salient is not None:
        tensors["weight_sum"] = packed_row_sums(quantized.packed, salient)
    elif not scheme.inputs.symmetric:
        tensors["weight_sum"] = quantized.sum
    return tensors


def rotated_weight(
    weight: Tensor, scheme: LinearScheme, gamma: Tensor | None = None, balance: Tensor | None = None
) -> Tensor:
    """W D Hᵀ [out, in] float32 before it is rounded, first times γ [in] and divided by d [in] if there is either."""
    if gamma is not None:
        weight = weight.float() * gamma.float()
    if balance is not None:
        weight = weight.float() / balance
    return weight.float() if scheme.rotation.is_none else Rotation(weight.shape[1], scheme.rotation.seed)(weight)
