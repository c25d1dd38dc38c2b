"""Step one of the encoding: counts in range, the scale of the formula, and no number out of a broken token."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.ops import EncodeSettings, encoding
from spikeconv.ops.settings import CLIPS
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
    table = EncodeSettings(low, high, symmetric, clip_ratio).table()
    *encoded, histogram = kernels.encode(u, [], None, None, table, False)
    assert histogram.numel() == 0
    return tuple(encoded)


def test_range_shape_and_scale(kernels: Any) -> None:
    for low, high, symmetric in RANGES.values():
        for clip in (0.9, 1.0):
            u = torch.randn(2, 5, 301, device=kernels.device) * torch.logspace(-6, 6, 5, device=kernels.device)[:, None]
            counts, scale, zero = encode(kernels, u, low, high, symmetric, clip)
            assert counts.dtype == (torch.int8 if high <= 127 else torch.int16)
            assert counts.shape == u.shape and scale.shape == zero.shape == (2, 5, 1)
            assert scale.dtype == torch.float32 and zero.dtype == torch.int32
            assert counts.min() >= low and counts.max() <= high
            assert (
                counts.short().abs().amax(-1) >= high
            ).all()  # every token's largest value lands on the largest count
            wide = u.double()
            if symmetric:
                expected = clip * wide.abs().amax(-1, keepdim=True) / high
                assert not zero.any()
            else:
                expected = clip * (wide.amax(-1, keepdim=True) - wide.amin(-1, keepdim=True)) / high
                assert ((zero >= 0) & (zero <= high)).all()
            torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0)


def test_unclipped_error_is_half_a_scale(kernels: Any) -> None:
    for low, high, symmetric in RANGES.values():
        u = torch.randn(64, 257, device=kernels.device) + (0 if symmetric else 0.5)
        counts, scale, zero = encode(kernels, u, low, high, symmetric, 1.0)
        error = (u - scale * (counts - zero)).abs()
        assert (error <= scale * (0.5 + 1e-4)).all()


def test_one_signed_asymmetric_token_keeps_zero_exact(kernels: Any) -> None:
    for sign in (1, -1):
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


def test_zero_and_broken_tokens(kernels: Any) -> None:
    """A token of zeros gives zeros, one that is no number cannot pass for one, and others do not notice."""
    for low, high, symmetric in RANGES.values():
        u = torch.randn(3, 16, device=kernels.device)
        alone = encode(kernels, u[::2], low, high, symmetric, 0.9)
        u[1] = 0
        counts, scale, zero = encode(kernels, u, low, high, symmetric, 0.9)
        assert not counts[1].any() and not zero[1].any() and scale[1].item() == 1
        for bad in (float("nan"), float("inf"), -float("inf")):
            u[1] = torch.randn(16)
            u[1, 4] = bad
            counts, scale, _ = encode(kernels, u, low, high, symmetric, 0.9)
            assert not scale[1].isfinite().any()
            assert counts.min() >= low and counts.max() <= high
            assert torch.equal(counts[::2], alone[0]) and torch.equal(scale[::2], alone[1])
        empty = encode(kernels, u[:0], low, high, symmetric, 0.9)
        assert [t.shape for t in empty] == [(0, 16), (0, 1), (0, 1)]


@pytest.mark.parametrize("size", [1, 7, 8, 36, 90, 576, 960, 4096, 11008, 29568])
def test_same_bits_as_the_reference(size: int, kernels: Any) -> None:
    """Norm, rotation, clip, scale, counts and histogram: one order of operations on every back end."""
    gamma, rotation = torch.rand(size), Rotation(size, 2)
    settings = [(*limits, 0.9, clip, 1e-5) for limits, clip in product(RANGES.values(), CLIPS)]
    # All settings where tokens are short; where they are long each once, with all that lies in front of them.
    fronts = list(product((False, True), (False, True))) if size < 2000 else [(True, True)]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for number, (setting, (rotated, normed)) in enumerate(product(settings, fronts)):
        x = torch.randn(5, size).to(dtypes[number % 3])
        x[1], x[2, size // 2], x[3, size // 3] = 0, float("nan"), float("inf")
        table = EncodeSettings(*setting).table()
        threshold = None if setting[4] == "none" else torch.tensor([0.3])
        front = rotation.on(torch.device("cpu")) if rotated else []
        arguments = (x, front, gamma if normed else None, threshold, table, True)
        expected = encoding.encode(*arguments)
        found = kernels.encode(*_on(arguments, kernels.device))
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype and torch.equal(_bits(one.cpu()), _bits(other)), (setting, rotated, normed)


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_on(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _bits(t: Tensor) -> Tensor:
    """Floats as integers, every NaN as one."""
    return t.where(~t.isnan(), torch.tensor(float("nan"))).view(torch.int32) if t.is_floating_point() else t


def test_rotation_has_the_same_bits(kernels: Any) -> None:
    for size in (48, 576, 4096, 29568):
        x, rotation = torch.randn(3, 2, size), Rotation(size, 5)
        expected = encoding.rotate(x, rotation.on(torch.device("cpu")))
        assert torch.equal(kernels.rotate(x.to(kernels.device), rotation.on(kernels.device)).cpu(), expected), size


ZONES = [  # δ, θ, largest count of one spike
    (0.0, 0.0, 0),
    (0.085, 0.0, 0),
    (0.085, 0.0, 7),
    (0.1, 0.25, 24),
    (0.1, 0.5, 7),
    (0.0, 0.3, 5),
    (1.0, 1.5, 7),
]


@pytest.mark.parametrize("size", [1, 9, 576, 1536, 4100])
def test_steps_and_dead_zones_have_the_same_bits(size: int, kernels: Any) -> None:
    rotation, gamma = Rotation(size, 2), torch.rand(size) + 0.5
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for number, ((low, high), (step, dead, one), rotated) in enumerate(
        product(((-8, 7), (-36, 36), (-300, 300)), ZONES, (False, True))
    ):
        x = torch.randn(7, size).to(dtypes[number % 3])
        x[1], x[2, size // 2], x[3, size // 3], x[4, 0], x[5] = 0, float("nan"), float("inf"), 3e4, x[5] * 1e-4
        zone = step, dead, min(one, high), number % 5 > 2
        settings = EncodeSettings(low, high, True, 1.0 if step else 0.9, "none", 1e-5, *zone)
        front = rotation.on(torch.device("cpu")) if rotated else []
        arguments = (x, front, gamma if number % 2 else None, None, settings.table(), True)
        expected = encoding.encode(*arguments)
        found = kernels.encode(*_on(arguments, kernels.device))
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype and torch.equal(_bits(a.cpu()), _bits(b)), settings
        alone = kernels.encode(*_on((x[6:], *arguments[1:]), kernels.device))
        assert torch.equal(alone[0].cpu(), expected[0][6:]) and torch.equal(alone[1].cpu(), expected[1][6:])


def test_steps_and_dead_zones_do_what_they_say(kernels: Any) -> None:
    """Against float64: the step is δ · rms (or mean) or reaches the largest potential; nothing below θ · rms; no count
    of two spikes just beyond one; all others are the nearest. Numbers too close to an edge to tell are left out."""
    for (step, dead_zone, one), high, by_mean in product(ZONES, (36, 300), (False, True)):
        u = torch.randn(40, 500, device=kernels.device)
        u[7, 3], u[8, 5] = 200.0, -45.0  # tokens whose largest values δ · rms does not reach with 36 counts
        settings = EncodeSettings(-high, high, True, 1.0, "none", 0.0, step, dead_zone, one, by_mean)
        counts, scale, *_ = kernels.encode(u, [], None, None, settings.table(), False)
        wide, k, s = u.double().cpu(), counts.long().cpu(), scale.double().cpu()
        rms, peak = wide.square().mean(-1, keepdim=True).sqrt(), wide.abs().amax(-1, keepdim=True)
        rms = wide.abs().mean(-1, keepdim=True) if by_mean else rms
        torch.testing.assert_close(
            s, torch.maximum(step * rms, peak / high) if step else peak / high, rtol=1e-5, atol=0
        )
        reaching = (peak / high > step * rms) if step else torch.zeros_like(peak, dtype=torch.bool)
        assert step != 0.085 or high != 36 or reaching[7], "the sweep must hold a token with an outlier"
        dead = torch.where(reaching, 0.0, dead_zone * rms)
        assert (
            (wide - s * k)
            .abs()[reaching.expand_as(wide)]
            .le((0.5001 * s).expand_as(wide)[reaching.expand_as(wide)])
            .all()
        )
        size = wide.abs()
        sure = ((size - dead).abs() > 1e-4 * rms) & ((size - one * s - dead).abs() > 1e-4 * rms)
        nearest = (size / s).round().clamp(max=high)
        wanted = torch.where(
            size < dead, 0.0, torch.where((size < one * s + dead) & (dead > 0), nearest.clamp(max=one), nearest)
        )
        off = (k.abs() - wanted.long()).abs()
        tie = ((size / s) % 1 - 0.5).abs() < 1e-3
        assert not off[sure & ~tie].any() and (k.sign() * wide.sign() >= 0).all(), settings


def test_any_number_of_threads(threads: Iterator[int], kernels: Any) -> None:
    x, rotation = torch.randn(300, 576), Rotation(576, 5)
    table = EncodeSettings(-8, 7).table()
    expected = encoding.encode(x, rotation.on(torch.device("cpu")), None, None, table, True)
    for number in threads:
        found = kernels.encode(x.to(kernels.device), rotation.on(kernels.device), None, None, table, True)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True)), number


def test_the_histogram_is_brute_force(kernels: Any) -> None:
    for low, high, symmetric in (*RANGES.values(), (-255, 255, True), (-3000, 2000, True)):
        u = torch.randn(5, 777, device=kernels.device)
        settings = EncodeSettings(low, high, symmetric, 0.9)
        counts, *_, histogram = kernels.encode(u, [], None, None, settings.table(), True)
        values = counts.flatten().tolist()
        assert histogram.dtype == torch.int64 and histogram.shape == (settings.bins,)
        assert histogram.tolist() == [values.count(count) for count in range(low, high + 1)]


CLIPPED = {
    "none": [-7.0, -2.0, 0.0, 1.0, 2.0, 7.0],
    "relu": [0.0, 0.0, 0.0, 0.0, 2.0, 7.0],
    "shifted": [0.0, 0.0, 0.0, 0.0, 0.5, 5.5],
    "two-sided": [-5.5, -0.5, 0.0, 0.0, 0.5, 5.5],
}


def test_clip_is_its_formula(kernels: Any) -> None:
    u = torch.tensor([[-7.0, -2.0, 0.0, 1.0, 2.0, 7.0]], device=kernels.device)
    for clip, expected in CLIPPED.items():
        threshold = None if clip == "none" else torch.tensor([1.5], device=kernels.device)
        table = EncodeSettings(-128, 127, True, 1.0, clip).table()
        counts, scale, *_ = kernels.encode(u, [], None, threshold, table, False)
        torch.testing.assert_close((counts * scale).cpu(), torch.tensor([expected]), rtol=0, atol=0.5 * float(scale))
        assert (counts.cpu() == 0).tolist() == [[value == 0 for value in expected]]


GOOD = EncodeSettings(-8, 7, True, 0.9, "relu", 1e-5)
BAD: dict[str, tuple[list[float], Tensor | None]] = {
    "a table of 2": ([1.0, 2.0], torch.ones(1)),
    "counts from -8 to 40000": (GOOD._replace(count_max=40000).table(), torch.ones(1)),
    "counts from -8 to 0": (GOOD._replace(count_max=0).table(), torch.ones(1)),
    "with a zero point": (GOOD._replace(symmetric=False).table(), torch.ones(1)),
    "clip ratio of 0": (GOOD._replace(clip_ratio=0.0).table(), torch.ones(1)),
    "epsilon of -1": (GOOD._replace(norm_epsilon=-1.0).table(), torch.ones(1)),
    "clip number 4": ([*GOOD.table()[:4], 4.0, *GOOD.table()[5:]], torch.ones(1)),
    "step of -0.1": (GOOD._replace(step=-0.1).table(), torch.ones(1)),
    "dead zone of -1": (GOOD._replace(dead_zone=-1.0).table(), torch.ones(1)),
    "8 as the largest count of one spike": (GOOD._replace(one_spike=8).table(), torch.ones(1)),
    "beside a zero point": (EncodeSettings(0, 15, False, 0.9, "relu", 0.0, 0.1).table(), torch.ones(1)),
    "nan|not a number|expected a number": (GOOD._replace(clip_ratio=float("nan")).table(), torch.ones(1)),
    "come together": (GOOD.table(), None),
    "come together; one": (GOOD._replace(clip="none").table(), torch.ones(1)),
}


def test_settings_that_no_kernel_takes_are_a_sentence(kernels: Any) -> None:
    u = torch.randn(2, 8, device=kernels.device)
    for sentence, (table, threshold) in BAD.items():
        with pytest.raises(Exception, match=sentence):
            kernels.encode(u, [], None, None if threshold is None else threshold.to(kernels.device), table, False)
