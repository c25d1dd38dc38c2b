"""Step one of the encoding: counts in range, the scale of the formula, and no number out of a broken token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.ops import encoding
from spikeconv.rotation import Rotation

RANGES = {
    "symmetric-4": (-8, 7, True),
    "full-4": (-8, 8, True),
    "symmetric-8": (-128, 127, True),
    "full-8": (-128, 128, True),
    "asymmetric-4": (0, 15, False),
    "asymmetric-8": (0, 255, False),
}


def encode(kernels: Any, u: Tensor, low: int, high: int, symmetric: bool, clip_ratio: float) -> tuple[Tensor, ...]:
    """Counts, scale and zero point without norm and rotation."""
    *encoded, statistics = kernels.encode(
        u, None, [], 1, None, 0.0, low, high, symmetric, clip_ratio, "none", 0.0, False
    )
    assert statistics.numel() == 0
    return tuple(encoded)


EACH_RANGE = pytest.mark.parametrize("name", RANGES)


@EACH_RANGE
@pytest.mark.parametrize("clip", [0.9, 1.0])
def test_range_shape_and_scale(name: str, clip: float, kernels: Any) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(2, 5, 301, device=kernels.device) * torch.logspace(-6, 6, 5, device=kernels.device)[:, None]
    counts, scale, zero = encode(kernels, u, low, high, symmetric, clip)
    assert counts.dtype == (torch.int8 if high <= 127 else torch.int16)
    assert counts.shape == u.shape and scale.shape == zero.shape == (2, 5, 1)
    assert scale.dtype == torch.float32 and zero.dtype == torch.int32
    assert counts.min() >= low and counts.max() <= high
    assert (counts.short().abs().amax(-1) >= high).all()  # every token's largest value lands on the largest count
    wide = u.double()
    if symmetric:
        expected = clip * wide.abs().amax(-1, keepdim=True) / high
        assert not zero.any()
    else:
        expected = clip * (wide.amax(-1, keepdim=True) - wide.amin(-1, keepdim=True)) / high
        assert ((zero >= 0) & (zero <= high)).all()
    torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0)


@EACH_RANGE
def test_unclipped_error_is_half_a_scale(name: str, kernels: Any) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(64, 257, device=kernels.device) + (0 if symmetric else 0.5)
    counts, scale, zero = encode(kernels, u, low, high, symmetric, 1.0)
    error = (u - scale * (counts - zero)).abs()
    assert (error <= scale * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_one_signed_asymmetric_token_keeps_zero_exact(sign: int, kernels: Any) -> None:
    u = sign * torch.rand(3, 33, device=kernels.device)
    u[:, 0] = 0
    counts, scale, zero = encode(kernels, u, 0, 15, False, 1.0)
    assert torch.equal(counts[:, :1], zero)
    assert (zero == (0 if sign > 0 else 15)).all()
    assert ((u - scale * (counts - zero)).abs() <= scale * 0.5001).all()


def test_rounds_half_to_even(kernels: Any) -> None:
    u = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7.0]], device=kernels.device)  # scale is exactly 1
    counts, scale, _ = encode(kernels, u, -8, 7, True, 1.0)
    assert scale.item() == 1
    assert counts.tolist() == [[7, 0, 2, 2, 0, -2, -2, -7]]


def test_clipping_reaches_the_extra_negative_count(kernels: Any) -> None:
    u = torch.tensor([[7.0, -7.0, 1.0]], device=kernels.device)  # scale .9: 7.8 and -7.8
    assert encode(kernels, u, -8, 7, True, 0.9)[0].tolist() == [[7, -8, 1]]
    assert encode(kernels, u, -8, 8, True, 0.9)[0].tolist() == [[8, -8, 1]]


@EACH_RANGE
def test_zero_token(name: str, kernels: Any) -> None:
    u = torch.randn(3, 16, device=kernels.device)
    u[1] = 0
    counts, scale, zero = encode(kernels, u, *RANGES[name], 0.9)
    assert not counts[1].any() and not zero[1].any() and scale[1].item() == 1
    assert counts[0].any() and counts[2].any()


@EACH_RANGE
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_token_cannot_pass_for_a_number(name: str, bad: float, kernels: Any) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(3, 16, device=kernels.device)
    u[1, 4] = bad
    counts, scale, _ = encode(kernels, u, low, high, symmetric, 0.9)
    assert not scale[1].isfinite().any()
    assert counts.min() >= low and counts.max() <= high
    alone = encode(kernels, u[::2], low, high, symmetric, 0.9)
    assert torch.equal(counts[::2], alone[0]) and torch.equal(scale[::2], alone[1])


@EACH_RANGE
def test_tokens_are_independent(name: str, kernels: Any) -> None:
    u = torch.randn(4, 40, device=kernels.device)
    together = encode(kernels, u, *RANGES[name], 0.9)
    one = encode(kernels, u[2:3], *RANGES[name], 0.9)
    assert all(torch.equal(a[2:3], b) for a, b in zip(together, one, strict=True))
    empty = encode(kernels, u[:0], *RANGES[name], 0.9)
    assert [t.shape for t in empty] == [(0, 40), (0, 1), (0, 1)]


@EACH_RANGE
@pytest.mark.parametrize("size", [1, 7, 8, 36, 64, 90, 576, 960, 1536, 4096, 11008, 29568])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_same_bits_as_the_reference(size: int, dtype: torch.dtype, name: str, kernels: Any) -> None:
    """Norm, rotation, clip, scale, counts and statistics: one order of operations on every back end."""
    x = torch.randn(6, size).to(dtype)
    x[1], x[2, size // 2], x[3, size // 3] = 0, float("nan"), float("inf")
    gamma = torch.rand(size)
    for rotation in (None, Rotation(size, 2)):
        for norm in (None, gamma):
            for clip in ("none", "relu", "shifted", "two-sided"):
                expected = _encode_all(encoding.encode, torch.device("cpu"), x, rotation, norm, RANGES[name], clip)
                found = _encode_all(kernels.encode, kernels.device, x, rotation, norm, RANGES[name], clip)
                for one, other in zip(found, expected, strict=True):
                    assert one.dtype == other.dtype
                    assert torch.equal(_bits(one), _bits(other))


def _encode_all(
    run: Any, device: torch.device, x: Tensor, rotation: Rotation | None, norm: Tensor | None, limits: Any, clip: str
) -> list[Tensor]:
    signs, bases, power = rotation.on(device) if rotation else (None, [], 1)
    gamma = None if norm is None else norm.to(device)
    low, high, symmetric = limits
    out = run(x.to(device), signs, bases, power, gamma, 1e-5, low, high, symmetric, 0.9, clip, 0.3, True)
    return [t.cpu() for t in out]


def _bits(t: Tensor) -> Tensor:
    """Floats as integers, every NaN as one."""
    return t.where(~t.isnan(), torch.tensor(float("nan"))).view(torch.int32) if t.is_floating_point() else t


@pytest.mark.parametrize("size", [48, 576, 4096, 29568])
def test_rotation_has_the_same_bits(size: int, kernels: Any) -> None:
    x, rotation = torch.randn(3, 2, size), Rotation(size, 5)
    expected = encoding.rotate(x, *rotation.on(torch.device("cpu")))
    assert torch.equal(kernels.rotate(x.to(kernels.device), *rotation.on(kernels.device)).cpu(), expected)


def test_any_number_of_threads(threads: int, kernels: Any) -> None:
    x, rotation = torch.randn(300, 576), Rotation(576, 5)
    arguments = (1.0, "none", 0.0, True)
    expected = encoding.encode(x, *rotation.on(torch.device("cpu")), None, 0.0, -8, 7, True, *arguments)
    found = kernels.encode(x.to(kernels.device), *rotation.on(kernels.device), None, 0.0, -8, 7, True, *arguments)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@EACH_RANGE
def test_statistics_are_brute_force(name: str, kernels: Any) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(5, 77, device=kernels.device)
    counts, *_, statistics = kernels.encode(u, None, [], 1, None, 0.0, low, high, symmetric, 0.9, "none", 0.0, True)
    values = counts.flatten().tolist()
    assert statistics.tolist() == [sum(map(abs, values)), values.count(0)]


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("none", [-7.0, -2.0, 0.0, 1.0, 2.0, 7.0]),
        ("relu", [0.0, 0.0, 0.0, 0.0, 2.0, 7.0]),
        ("shifted", [0.0, 0.0, 0.0, 0.0, 0.5, 5.5]),
        ("two-sided", [-5.5, -0.5, 0.0, 0.0, 0.5, 5.5]),
    ],
)
def test_clip_is_its_formula(clip: str, expected: list[float], kernels: Any) -> None:
    u = torch.tensor([[-7.0, -2.0, 0.0, 1.0, 2.0, 7.0]], device=kernels.device)
    counts, scale, *_ = kernels.encode(u, None, [], 1, None, 0.0, -128, 127, True, 1.0, clip, 1.5, False)
    torch.testing.assert_close((counts * scale).cpu(), torch.tensor([expected]), rtol=0, atol=0.5 * float(scale))
    assert (counts.cpu() == 0).tolist() == [[value == 0 for value in expected]]
