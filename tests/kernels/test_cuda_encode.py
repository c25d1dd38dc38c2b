"""Emulated CUDA encoders (see conftest.py): the bits of the reference, whatever memory a token lies in."""

from collections.abc import Callable
from itertools import product as every
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.ops import EncodeSettings, encoding


def signs_of(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape).float() * 2 - 1


ROTATIONS = [  # size, base orders, power
    (8, (), 8),
    (12, (12,), 1),
    (90, (), 2),
    (576, (36,), 16),
    (960, (60,), 16),
    (4096, (), 4096),
    (1536, (12,), 128),
    (29568 // 12, (28, 44), 2),
    (11008 // 4, (344,), 8),
    (200, (20,), 2),
]


def rotation_of(size: int, orders: tuple[int, ...], power: int) -> list[Tensor]:
    return [signs_of(size // power, power), *(signs_of(m, m) for m in orders)]


@pytest.mark.parametrize(("size", "orders", "power"), ROTATIONS)
def test_rotate(
    ops: Any,
    any_order: Callable[[int], None],
    size: int,
    orders: tuple[int, ...],
    power: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, rotation = torch.randn(5, size), rotation_of(size, orders, power)
    for memory, order in every(("shared", "global"), range(3)):
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304" if memory == "global" else str(99 << 10))
        any_order(order)
        assert torch.equal(ops.rotate(x, rotation), encoding.rotate(x, rotation)), (memory, order)


ENCODES = [  # settings, τ
    (EncodeSettings(-8, 7, True, 0.9, "none", 1e-5), None),
    (EncodeSettings(-8, 8, True, 0.9, "two-sided", 1e-5), 0.2),
    (EncodeSettings(0, 15, False, 0.9, "none", 1e-5), None),
    (EncodeSettings(0, 255, False, 0.9, "relu", 1e-5), 0.1),
    (EncodeSettings(0, 15, False, 0.9, "shifted", 1e-5), 0.3),
    (EncodeSettings(-400, 400, True, 0.9, "none", 1e-5), None),  # more bins than a block holds
    (EncodeSettings(-300, 300, True, 1.0, "none", 1e-5, 0.085, 0.25, 24), None),
    (EncodeSettings(-36, 36, True, 1.0, "two-sided", 1e-5, 0.1, 0.5, 8), 0.2),
    (EncodeSettings(-1024, 1024, True, 1.0, "none", 1e-5, 1 / 3, 0.0, 0, True), None),
    (EncodeSettings(-8, 7, True, 0.9, "none", 1e-5, 0.0, 0.4, 8 - 1), None),
]


@pytest.mark.parametrize(
    ("settings", "clip"), ENCODES, ids=[f"{s.count_max}-{s.clip}-{s.dead_zone:g}-{s.by_mean:d}" for s, _ in ENCODES]
)
@pytest.mark.parametrize("memory", ["shared", "global"])
def test_encode(
    ops: Any,
    settings: EncodeSettings,
    clip: float | None,
    memory: str,
    any_order: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if memory == "global":
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", "2304")
    for dtype, size in every((torch.float32, torch.bfloat16, torch.float16), (75, 576, 2050)):
        any_order(size)
        x = torch.randn(6, size).to(dtype)
        x[1] = 0
        x[2, 3] = torch.nan
        x[3, 5] = torch.inf
        x[4] *= 1e-3
        rotation = rotation_of(size, (36,), 16) if size == 576 else []
        threshold = None if clip is None else torch.tensor([clip])
        arguments = (rotation, torch.randn(size), threshold, settings.table(), True)
        for ours, wanted in zip(ops.encode(x, *arguments), encoding.encode(x, *arguments), strict=True):
            assert ours.dtype == wanted.dtype and torch.equal(ours.nan_to_num(-1), wanted.nan_to_num(-1)), size


def test_the_longest_inputs(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """53,248 = 52 · 1,024 inputs: the shared memory of a Hopper GPU just holds them."""
    for limit in (99 << 10, 232448):
        monkeypatch.setenv("SPIKECONV_EMULATE_SHARED", str(limit))
        x, rotation = torch.randn(1, 53248), rotation_of(53248, (52,), 1024)
        assert torch.equal(ops.rotate(x, rotation), encoding.rotate(x, rotation))
