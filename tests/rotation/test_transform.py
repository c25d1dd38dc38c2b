"""The rotation is orthogonal, is the matrix it says it is, and its signs are SplitMix64's."""

from functools import reduce
from math import prod

import pytest
import torch

from spikeconv.rotation import Rotation
from spikeconv.rotation.orders import hadamard_matrix
from spikeconv.rotation.signs import random_signs

SIZES = [1, 2, 12, 48, 72, 90, 128, 172, 344, 576, 960, 1024, 1536, 4864, 29568]
BLOCKS = {90: 2, 3: 1, 13696: 128}
"""Sizes without a known Hadamard matrix, and the largest order that divides them."""


def splitmix64(state: int, count: int) -> list[int]:
    """Steele, Lea and Flood (2014), the reference generator."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_reference_generator_is_splitmix64() -> None:
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # published test vector


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_signs_are_the_top_bits_of_splitmix64(seed: int) -> None:
    # Counter mode: the i-th state is (seed · 2^32 + i) times the increment.
    outputs = splitmix64((seed << 32) * 0x9E3779B97F4A7C15 % 2**64, 200)
    assert random_signs(200, seed).tolist() == [-1.0 if z >> 63 else 1.0 for z in outputs]


def test_signs_are_prefixes_balanced_and_differ_by_seed() -> None:
    long = random_signs(4096, 3)
    assert torch.equal(long[:576], random_signs(576, 3))
    assert long.dtype == torch.float32 and (long.abs() == 1).all()
    assert abs(long.mean().item()) < 4 / 4096**0.5  # four standard deviations
    assert abs((long * random_signs(4096, 4)).mean().item()) < 4 / 4096**0.5


@pytest.mark.parametrize("size", [*SIZES, *BLOCKS])
def test_orthogonal(size: int, device: torch.device) -> None:
    rotation = Rotation(size, 1)
    x, w = torch.randn(2, 4, size, device=device).unbind()
    torch.testing.assert_close(rotation(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=0)
    rotated, plain = (rotation(x) * rotation(w)).sum(-1), (x.double() * w.double()).sum(-1)
    bound = 1e-4 * x.norm(dim=-1) * w.norm(dim=-1)
    assert ((rotated - plain).abs() <= bound).all()


@pytest.mark.parametrize("size", [1, 12, 48, 72, 90, 128, 172, 344, 576, 4864])
def test_inverse(size: int, device: torch.device) -> None:
    rotation, x = Rotation(size, 5), torch.randn(3, 2, size, device=device)
    torch.testing.assert_close(rotation.inverse(rotation(x)), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(rotation(rotation.inverse(x)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [12, 48, 72, 90, 128, 172, 576, 960, 1536, *BLOCKS])
def test_is_its_matrix(size: int, device: torch.device) -> None:
    rotation = Rotation(size, 2)
    assert prod(rotation.factors) == rotation.order == BLOCKS.get(size, size)
    block = reduce(torch.kron, (hadamard_matrix(m).double() for m in rotation.factors))
    x = torch.randn(3, size, device=device)
    flipped = (x.double().cpu() * random_signs(size, 2)).view(3, -1, rotation.order)
    expected = (flipped @ block.T / rotation.order**0.5).view(3, size)
    torch.testing.assert_close(rotation(x).double().cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "text"), [(576, "36·16"), (1536, "12·128"), (4096, "4096"), (13696, "107 blocks of 128")]
)
def test_describe(size: int, text: str) -> None:
    assert Rotation(size, 0).describe() == text


def test_one_signed_input_is_spread(device: torch.device) -> None:
    """Without the signs a constant input would be one coefficient of √n."""
    u = Rotation(1024, 0)(torch.ones(1024, device=device))
    assert u.abs().max() < 6


def test_input_is_left_alone_and_output_is_float32(device: torch.device) -> None:
    x = torch.randn(2, 3, 48, device=device, dtype=torch.bfloat16)
    before = x.clone()
    u = Rotation(48, 0)(x)
    assert torch.equal(x, before) and u.dtype == torch.float32 and u.shape == x.shape
    assert torch.equal(u, Rotation(48, 0)(x.float()))
    assert not torch.equal(u, Rotation(48, 1)(x))


def test_strided_and_empty_inputs(device: torch.device) -> None:
    rotation = Rotation(48, 0)
    x = torch.randn(48, 5, device=device).mT
    assert torch.equal(rotation(x), rotation(x.contiguous()))
    assert rotation(x[:0]).shape == (0, 48)


def test_usable_for_training_after_inference_mode(device: torch.device) -> None:
    rotation = Rotation(60, 77)
    with torch.inference_mode():
        rotation(torch.randn(2, 60, device=device))
    assert rotation(torch.randn(2, 60, device=device)).isfinite().all()


def test_autocast_does_not_round_the_rotation(device: torch.device) -> None:
    x, rotation = torch.randn(4, 576, device=device), Rotation(576, 0)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(rotation(x), rotation(x.clone()))
        inside = rotation(x)
    assert torch.equal(inside, rotation(x))
