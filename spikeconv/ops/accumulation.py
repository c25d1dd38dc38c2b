"""Signed column accumulation in plain torch: the oracle of the native products.

    acc = Σ_i k_i W[:, i]                       accumulate, int32, in one of three executions
    y   = (acc - z Σ_i W[:, i]) · s · s_w + b   linears

The three executions give the same int32 accumulators bit for bit (SDLLM, theorems 2 and 4): `unfold` adds signed
columns slot by slot of a temporal code (`codes`), `events` adds the columns of the non-zero counts, `dense` is one
integer product. `auto` is whichever of the last two the weight's layout is made for.
"""

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.ops.packing import unpack_arranged
from spikeconv.ops.settings import ProductSettings

__all__ = ["accumulate", "code_table", "linears"]

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and so every partial sum of integers, is a float32."""


def accumulate(
    counts: Tensor, weight: Tensor, digits: Tensor | None, out_features: int, settings: list[float]
) -> Tensor:
    """Signed column accumulation of integer weights by spike counts.

    Args:
        counts: [..., in] int8 or int16.
        weight: uint8, packed or arranged (see `packing`).
        digits: int8 [slots, largest_count + 1] for "unfold", else None: what |k| sends in each slot, -1, 0 or 1. The
            spike is that times the sign of k.
        out_features: outputs of the weight.
        settings: `ProductSettings.table()`.

    Returns:
        [..., out] int32, the same bits for every execution, code and layout.
    """
    chosen = ProductSettings.of(settings, counts.shape[-1])
    flat = counts.reshape(-1, counts.shape[-1])
    columns = unpack_arranged(weight, out_features, flat.shape[-1], chosen.bits)
    if chosen.execution == "unfold":
        acc = _unfold(flat, columns, chosen, _checked_digits(digits, flat, chosen))
    else:
        acc = (_events if chosen.execution == "events" else _dense)(flat, columns, chosen)
    return acc.view(*counts.shape[:-1], out_features)


def linears(
    counts: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    operands: list[Tensor | None],
    settings: list[float],
    dtype: torch.dtype,
) -> list[Tensor]:
    """The outputs of several linears that share an encoded input.

    Args:
        counts: [..., in] int8 or int16.
        scale: [..., 1] float32 per token.
        zero_point: [..., 1] int32 per token, or None for signed counts.
        operands: four of every linear: its weight, packed or arranged; its scale float32 [out]; the row sums of the
            weight int32 [out], which the zero point multiplies (None without one); its bias [out] in any float dtype,
            or None.
        settings: `ProductSettings.table()`; any execution but "unfold".
        dtype: of the outputs.

    Returns:
        One tensor [..., out] per linear.
    """
    chosen = ProductSettings.of(settings, counts.shape[-1])
    if chosen.execution == "unfold":
        raise SpikeconvError("Only `accumulate` unfolds; `linears` takes auto, dense or events.")
    outputs = []
    for weight, weight_scale, weight_sum, bias in zip(*(operands[i::4] for i in range(4)), strict=True):
        assert weight is not None and weight_scale is not None
        acc = accumulate(counts, weight, None, weight_scale.shape[0], settings)
        if (zero_point is None) != (weight_sum is None):
            raise SpikeconvError("Zero points and sums of weights come together; one of them is missing.")
        if zero_point is not None and weight_sum is not None:
            _check_sums(weight_sum, counts.shape[-1], chosen.bits)
            acc = acc - zero_point * weight_sum
        y = acc.float() * scale * weight_scale
        outputs.append((y if bias is None else y + bias.float()).to(dtype))
    return outputs


def _check_sums(weight_sum: Tensor, in_features: int, bits: int) -> None:
    largest = int(weight_sum.long().abs().max()) if weight_sum.numel() else 0
    if largest > in_features << bits - 1:
        raise SpikeconvError(
            f"A weight's row adds up to {largest}, more than {in_features} integers of {bits} bits can: its sums are"
            " not those of the weight. Convert the model again."
        )


def code_table(digits: Tensor | None, largest: int) -> Tensor:
    """A temporal code's digits, if they are a table for counts up to `largest`."""
    if digits is None or digits.dtype != torch.int8 or digits.dim() != 2 or digits.shape[1] != largest + 1:
        raise SpikeconvError(
            f"To unfold takes a code's digits, int8 [slots, {largest + 1}] for counts up to {largest}."
        )
    return digits


def _checked_digits(digits: Tensor | None, counts: Tensor, settings: ProductSettings) -> Tensor:
    """A temporal code's table, if it fits the counts."""
    digits, wanted = code_table(digits, settings.largest_count), settings.largest_count + 1
    if digits.numel() and int(digits.abs().max()) > 1:
        raise SpikeconvError("A code's digits must be -1, 0 or 1: a slot sends a spike or none.")
    if counts.numel() and int(counts.short().abs().max()) >= wanted:
        raise SpikeconvError(f"A count beyond {wanted - 1}, for which the code has no digits.")
    return digits


def _dense(counts: Tensor, weight: Tensor, settings: ProductSettings) -> Tensor:
    """One product of integers; float32 is exact on every stretch of inputs short enough for |acc| < 2^24."""
    stretch = (EXACT_FLOAT32 - 1) // (settings.largest_count << (settings.bits - 1))
    parts = zip(counts.split(stretch, dim=1), weight.split(stretch, dim=1), strict=True)
    total = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    for k, w in parts:
        total += (k.float() @ w.float().mT).int()
    return total


def _events(counts: Tensor, weight: Tensor, settings: ProductSettings) -> Tensor:
    """Only the columns of non-zero counts are read, token by token, all in integers."""
    columns = weight.mT.contiguous()
    total = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    for token, k in enumerate(counts):
        fired = k.nonzero().squeeze(-1)
        total[token] = (columns[fired].int() * k[fired].int()[:, None]).sum(0, dtype=torch.int32)
    return total


def _unfold(counts: Tensor, weight: Tensor, settings: ProductSettings, digits: Tensor) -> Tensor:
    """Slot by slot, the columns of positive spikes are added and those of negative spikes subtracted."""
    membrane = torch.zeros((counts.shape[0], weight.shape[0]), dtype=torch.int32, device=counts.device)
    held = torch.zeros_like(membrane)
    signs, magnitudes = counts.sign(), counts.short().abs().long()  # int8 has no |-128|
    single = settings._replace(largest_count=1)
    for digit in digits:
        spikes = signs * digit[magnitudes]
        current = _dense((spikes > 0).to(torch.int8), weight, single)
        current -= _dense((spikes < 0).to(torch.int8), weight, single)
        if settings.membrane == "ramp":
            held += current
            membrane += held
        else:
            membrane = (2 * membrane if settings.membrane == "double" else membrane) + current
    return membrane
