"""Step one of the encoding: counts in range, the scale of the formula, and no number out of a broken token."""

import pytest
import torch

from spikeconv import ops

RANGES = {
    "symmetric-4": (-8, 7, True),
    "full-4": (-8, 8, True),
    "symmetric-8": (-128, 127, True),
    "full-8": (-128, 128, True),
    "asymmetric-4": (0, 15, False),
    "asymmetric-8": (0, 255, False),
}
EACH_RANGE = pytest.mark.parametrize("name", RANGES)


@EACH_RANGE
@pytest.mark.parametrize("clip", [0.9, 1.0])
def test_range_shape_and_scale(name: str, clip: float, device: torch.device) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(2, 5, 301, device=device) * torch.logspace(-6, 6, 5, device=device)[:, None]
    counts, scale, zero = ops.encode_counts(u, low, high, symmetric, clip)
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
def test_unclipped_error_is_half_a_scale(name: str, device: torch.device) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(64, 257, device=device) + (0 if symmetric else 0.5)
    counts, scale, zero = ops.encode_counts(u, low, high, symmetric, 1.0)
    error = (u - scale * (counts - zero)).abs()
    assert (error <= scale * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_one_signed_asymmetric_token_keeps_zero_exact(sign: int, device: torch.device) -> None:
    u = sign * torch.rand(3, 33, device=device)
    u[:, 0] = 0
    counts, scale, zero = ops.encode_counts(u, 0, 15, False, 1.0)
    assert torch.equal(counts[:, :1], zero)
    assert (zero == (0 if sign > 0 else 15)).all()
    assert ((u - scale * (counts - zero)).abs() <= scale * 0.5001).all()


def test_rounds_half_to_even(device: torch.device) -> None:
    u = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7.0]], device=device)  # scale is exactly 1
    counts, scale, _ = ops.encode_counts(u, -8, 7, True, 1.0)
    assert scale.item() == 1
    assert counts.tolist() == [[7, 0, 2, 2, 0, -2, -2, -7]]


def test_clipping_reaches_the_extra_negative_count(device: torch.device) -> None:
    u = torch.tensor([[7.0, -7.0, 1.0]], device=device)  # scale .9: 7.8 and -7.8
    assert ops.encode_counts(u, -8, 7, True, 0.9)[0].tolist() == [[7, -8, 1]]
    assert ops.encode_counts(u, -8, 8, True, 0.9)[0].tolist() == [[8, -8, 1]]


@EACH_RANGE
def test_zero_token(name: str, device: torch.device) -> None:
    u = torch.randn(3, 16, device=device)
    u[1] = 0
    counts, scale, zero = ops.encode_counts(u, *RANGES[name], 0.9)
    assert not counts[1].any() and not zero[1].any() and scale[1].item() == 1
    assert counts[0].any() and counts[2].any()


@EACH_RANGE
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_token_cannot_pass_for_a_number(name: str, bad: float, device: torch.device) -> None:
    low, high, symmetric = RANGES[name]
    u = torch.randn(3, 16, device=device)
    u[1, 4] = bad
    counts, scale, _ = ops.encode_counts(u, low, high, symmetric, 0.9)
    assert not scale[1].isfinite().any()
    assert counts.min() >= low and counts.max() <= high
    alone = ops.encode_counts(u[::2], low, high, symmetric, 0.9)
    assert torch.equal(counts[::2], alone[0]) and torch.equal(scale[::2], alone[1])


@EACH_RANGE
def test_tokens_are_independent(name: str, device: torch.device) -> None:
    u = torch.randn(4, 40, device=device)
    together = ops.encode_counts(u, *RANGES[name], 0.9)
    one = ops.encode_counts(u[2:3], *RANGES[name], 0.9)
    assert all(torch.equal(a[2:3], b) for a, b in zip(together, one, strict=True))
    empty = ops.encode_counts(u[:0], *RANGES[name], 0.9)
    assert [t.shape for t in empty] == [(0, 40), (0, 1), (0, 1)]
