"""Packed weights: the inverse holds, and the bits lie where the format says."""

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
