"""How signed integers of 2 to 8 bits lie in a checkpoint.

Eight consecutive inputs of a row form one little-endian word of `bits` bytes, the first input in the lowest bits:
`word = Σ_i (q_i mod 2^bits) · 2^(bits·i)`. For 4 bits this is the usual pair of nibbles, low nibble first. The packed
tensor has three axes, so that loading it as an ordinary two-axis weight fails instead of giving a wrong model.
"""

import torch
from torch import Tensor

__all__ = ["pack", "packed_shape", "unpack"]

LANES = 8


def packed_shape(out_features: int, in_features: int, bits: int) -> tuple[int, int, int]:
    """Shape of the packed weight: [out, ceil(in / 8), bits], dtype uint8."""
    return out_features, -(-in_features // LANES), bits


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack an int8 matrix [out, in] with entries in [-2^(bits-1), 2^(bits-1)-1] into uint8 [out, ceil(in/8), bits]."""
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % LANES)).view(rows, -1, LANES)
    word = torch.zeros(padded.shape[:2], dtype=torch.int64, device=values.device)
    mask = (1 << bits) - 1
    for lane in range(LANES):
        word |= (padded[..., lane].long() & mask) << (bits * lane)
    return word.view(torch.uint8).view(rows, -1, 8)[..., :bits].contiguous()


def unpack(packed: Tensor, in_features: int) -> Tensor:
    """The int8 matrix [out, in] of a packed weight; the inverse of `pack`."""
    rows, words, bits = packed.shape
    if bits == 4:  # the main format: the two nibbles of a byte, without the detour over words
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
