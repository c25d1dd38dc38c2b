"""How integer weights lie in memory.

A checkpoint holds them *packed*: eight consecutive inputs of a row form one little-endian word of `bits` bytes, the
first input in the lowest bits, `word = Σ_i (q_i mod 2^bits) · 2^(bits·i)`. For 4 bits this is the usual pair of
nibbles, low nibble first. The tensor has three axes, so that loading it as an ordinary two-axis weight fails instead
of giving a wrong model.

A running model may hold them *arranged* instead (`kernels/common/layout.h`), offset-binary (q + 2^(bits-1)), in a
nibble up to 4 bits and in a byte above:

    tiles    [out/16, in/8, 16, 4]      dense products; low nibbles are inputs 0, 2, 4, 6, high ones 1, 3, 5, 7
             [out/16, in/8, 2, 16, 4]   the same in bytes
    columns  [in, out/2] or [in, out]   events: what one input touches is contiguous
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Layout", "arrange", "pack", "packed_shape", "unpack", "unpack_arranged"]

Layout = Literal["packed", "tiles", "columns"]
LANES = 8
TILE = 16
LARGEST_NIBBLE = 4


def packed_shape(out_features: int, in_features: int, bits: int) -> tuple[int, int, int]:
    """Shape of the packed weight: [out, ceil(in / 8), bits], dtype uint8."""
    return out_features, -(-in_features // LANES), bits


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack an int8 matrix [out, in] with entries in [-2^(bits-1), 2^(bits-1)-1] into uint8 [out, ceil(in/8), bits]."""
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % LANES)).view(rows, -1, LANES)
    if bits == LARGEST_NIBBLE:  # as in `unpack`
        return (padded[..., ::2] & 15 | padded[..., 1::2] << 4).view(torch.uint8)
    word = torch.zeros(padded.shape[:2], dtype=torch.int64, device=values.device)
    mask = (1 << bits) - 1
    for lane in range(LANES):
        word |= (padded[..., lane].long() & mask) << (bits * lane)
    return word.view(torch.uint8).view(rows, -1, 8)[..., :bits].contiguous()


def unpack(packed: Tensor, in_features: int) -> Tensor:
    """The int8 matrix [out, in] of a packed weight; the inverse of `pack`."""
    rows, words, bits = packed.shape
    if bits == LARGEST_NIBBLE:  # the main format: the two nibbles of a byte, without the detour over words
        nibbles = packed.view(torch.int8)
        return torch.stack((nibbles << 4 >> 4, nibbles >> 4), dim=-1).view(rows, -1)[:, :in_features]
    word = torch.zeros((rows, words, 8), dtype=torch.uint8, device=packed.device)
    word[..., :bits] = packed
    word = word.view(torch.int64).squeeze(-1)
    values = torch.empty((rows, words, LANES), dtype=torch.int8, device=packed.device)
    spare = 8 - bits
    for lane in range(LANES):
        # Shift the field to the top of a byte and back, so that its sign fills the byte.
        values[..., lane] = (word >> (bits * lane)).to(torch.int8) << spare >> spare
    return values.view(rows, -1)[:, :in_features]


def arrange(packed: Tensor, in_features: int, layout: str) -> Tensor:
    """Tiles or columns of a packed weight."""
    out_features, words, bits = packed.shape
    nibble = bits <= LARGEST_NIBBLE
    stored = unpack(packed, in_features).short().add_(1 << bits - 1).to(torch.uint8)
    if layout == "columns":
        columns = stored.mT
        return _nibbles(columns) if nibble else columns.contiguous()
    padded = stored.new_zeros(-(-out_features // TILE) * TILE, words * LANES)
    padded[:out_features, :in_features] = stored
    steps = padded.view(-1, TILE, words, 4, 2).permute(0, 2, 4, 1, 3)  # [tile, word, even or odd, output, input]
    return (steps[:, :, 0] | steps[:, :, 1] << 4) if nibble else steps.contiguous()


def unpack_arranged(weight: Tensor, out_features: int, in_features: int, bits: int) -> Tensor:
    """The int8 matrix [out, in] of a weight in any layout, contiguous."""
    if weight.dim() == 3:
        return unpack(weight, in_features)
    if weight.dim() == 2:
        stored = weight if bits > LARGEST_NIBBLE else torch.stack((weight & 15, weight >> 4), -1).flatten(1)
        stored = stored[:, :out_features].mT.contiguous()  # strides choose the sums of a float product
    else:
        steps = weight if weight.dim() == 5 else torch.stack((weight & 15, weight >> 4), 2)
        rows = steps.permute(0, 3, 1, 4, 2).reshape(weight.shape[0] * TILE, -1)
        stored = rows[:out_features, :in_features]
    return stored.short().sub_(1 << bits - 1).to(torch.int8)


def _nibbles(rows: Tensor) -> Tensor:
    """Pairs of a row's entries in one byte, the first in the low nibble."""
    padded = torch.nn.functional.pad(rows, (0, rows.shape[1] % 2)).unflatten(1, (-1, 2))
    low, high = padded[..., 0], padded[..., 1]
    return torch.bitwise_or(low, high << 4)
