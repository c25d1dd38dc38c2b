"""Packed and arranged weights: the inverses hold, and the bits lie where the formats say."""

from typing import Any

import pytest
import torch

from spikeconv import ops

BITS = range(2, 9)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 8), (2, 9), (7, 61)])
def test_unpack_inverts_pack(bits: int, shape: tuple[int, int], device: torch.device) -> None:
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8, device=device)
    values.view(-1)[0] = -(2 ** (bits - 1))
    packed = ops.pack(values, bits)
    assert packed.dtype == torch.uint8 and packed.shape == ops.packed_shape(*shape, bits)
    assert packed.is_contiguous()
    assert torch.equal(ops.unpack(packed, shape[1]), values)


@pytest.mark.parametrize("bits", BITS)
def test_every_value_in_every_lane(bits: int) -> None:
    every = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int8)
    values = every[:, None].expand(-1, 8).contiguous()
    assert torch.equal(ops.unpack(ops.pack(values, bits), 8), values)


@pytest.mark.parametrize("bits", BITS)
def test_layout_is_a_little_endian_word_of_eight_inputs(bits: int) -> None:
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


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (16, 8), (33, 9), (70, 61)])
@pytest.mark.parametrize("layout", ["tiles", "columns"])
def test_arranged_weight_is_the_same_weight(bits: int, shape: tuple[int, int], layout: str, kernels: Any) -> None:
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8, device=kernels.device)
    arranged = kernels.arrange(ops.pack(values, bits), shape[1], layout)
    assert torch.equal(ops.unpack_arranged(arranged, *shape, bits), values)
    assert torch.equal(ops.unpack_arranged(ops.pack(values, bits), *shape, bits), values)


@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_tiles_lie_as_written(bits: int, kernels: Any) -> None:
    """Byte j of an output's word: inputs 2j and 2j + 1, in nibbles or in two planes of bytes; stored is q + 2^(b-1)."""
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (40, 24), dtype=torch.int8)
    tiles = kernels.arrange(ops.pack(values, bits).to(kernels.device), 24, "tiles").cpu()
    for output, row in enumerate(values.tolist()):
        for i, q in enumerate(row):
            tile, word, byte = output // 16, i // 8, i % 8 // 2
            if bits <= 4:
                stored = tiles[tile, word, output % 16, byte].item() >> 4 * (i % 2) & 15
            else:
                stored = tiles[tile, word, i % 2, output % 16, byte].item()
            assert stored == q + 2 ** (bits - 1)


def test_a_tile_of_four_bits_is_the_checkpoint_interleaved(kernels: Any) -> None:
    packed = ops.pack(torch.randint(-8, 8, (32, 40), dtype=torch.int8), 4)
    tiles = kernels.arrange(packed.to(kernels.device), 40, "tiles").cpu()
    assert torch.equal(tiles, packed.view(2, 16, 5, 4).transpose(1, 2) ^ 0x88)
