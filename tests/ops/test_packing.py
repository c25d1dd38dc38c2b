"""Packed and arranged weights: the inverses hold, and the bits lie where the formats say."""

from itertools import product
from typing import Any

import torch

from spikeconv import ops

BITS = range(2, 9)


def test_unpack_inverts_pack(device: torch.device) -> None:
    for bits, shape in product(BITS, ((1, 1), (3, 7), (5, 8), (2, 9), (7, 61))):
        values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8, device=device)
        values.view(-1)[0] = -(2 ** (bits - 1))
        packed = ops.pack(values, bits)
        assert packed.dtype == torch.uint8 and packed.shape == ops.packed_shape(*shape, bits)
        assert packed.is_contiguous()
        assert torch.equal(ops.unpack(packed, shape[1]), values)


def test_every_value_in_every_lane() -> None:
    for bits in BITS:
        every = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int8)
        values = every[:, None].expand(-1, 8).contiguous()
        assert torch.equal(ops.unpack(ops.pack(values, bits), 8), values)


def test_layout_is_a_little_endian_word_of_eight_inputs() -> None:
    for bits in BITS:
        values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (4, 19), dtype=torch.int8)
        packed = ops.pack(values, bits)
        for row, words in zip(values.tolist(), packed.tolist(), strict=True):
            row += [0] * (-len(row) % 8)
            for i, word in enumerate(words):
                integer = sum((q % 2**bits) << (bits * lane) for lane, q in enumerate(row[8 * i : 8 * i + 8]))
                assert bytes(word) == integer.to_bytes(bits, "little")


def test_four_bits_are_nibbles_low_first() -> None:
    values = torch.tensor([[1, -1, 7, -8, 0, 0, 0, 2]], dtype=torch.int8)
    assert ops.pack(values, 4).flatten().tolist() == [0xF1, 0x87, 0x00, 0x20]


def test_packed_has_three_axes_so_that_a_plain_load_fails() -> None:
    assert len(ops.packed_shape(5, 7, 4)) == 3


def test_arranged_weight_is_the_same_weight(kernels: Any) -> None:
    for bits, shape in product(BITS, ((1, 1), (3, 7), (16, 8), (33, 9), (70, 61))):
        values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8, device=kernels.device)
        assert torch.equal(ops.unpack_arranged(ops.pack(values, bits), *shape, bits), values)
        for layout in ("tiles", "columns"):
            arranged = kernels.arrange(ops.pack(values, bits), shape[1], layout)
            found = ops.unpack_arranged(arranged, *shape, bits)
            assert torch.equal(found, values), (bits, shape, layout)
            assert found.is_contiguous()  # the strides of a float product's operands choose the order of its sums


def test_tiles_lie_as_written(kernels: Any) -> None:
    """Byte j of an output's word: inputs 2j and 2j + 1, in nibbles or in two planes of bytes; stored is q + 2^(b-1)."""
    for bits in (3, 4, 5, 8):
        values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (40, 24), dtype=torch.int8)
        tiles = kernels.arrange(ops.pack(values, bits).to(kernels.device), 24, "tiles").tolist()
        for output, row in enumerate(values.tolist()):
            for i, q in enumerate(row):
                word, lane, byte = tiles[output // 16][i // 8], output % 16, i % 8 // 2
                stored = word[lane][byte] >> 4 * (i % 2) & 15 if bits <= 4 else word[i % 2][lane][byte]
                assert stored == q + 2 ** (bits - 1)


def test_a_tile_of_four_bits_is_the_checkpoint_interleaved(kernels: Any) -> None:
    packed = ops.pack(torch.randint(-8, 8, (32, 40), dtype=torch.int8), 4)
    tiles = kernels.arrange(packed.to(kernels.device), 40, "tiles").cpu()
    assert torch.equal(tiles, packed.view(2, 16, 5, 4).transpose(1, 2) ^ 0x88)
