"""A group in one call gives the bits of its steps, and a plan never outlives what it was made of."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.ops import EncodeSettings, ProductSettings
from spikeconv.ops.native import cpu_kernels, plan_group, run_group, use_cpu_kernels
from spikeconv.rotation import Rotation

pytestmark = pytest.mark.skipif(not cpu_kernels(), reason="plans are the native kernels'")

ASYMMETRIC = {"count_min": 0, "count_max": 15, "symmetric": False}
WIDE = {"count_min": -300, "count_max": 300, "step": 0.085, "dead_zone": 0.25, "one_spike": 24}


@pytest.fixture(params=cpu_kernels())
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this processor."""
    yield use_cpu_kernels(request.param)
    use_cpu_kernels("auto")


class Group:
    """Random weights behind one encoder: its plan, and its steps one by one."""

    def __init__(
        self,
        in_features: int = 72,
        sizes: tuple[int, ...] = (40, 19),
        *,
        bits: int = 4,
        layout: str = "tiles",
        rotated: bool = True,
        norm: torch.dtype | None = None,
        bias: torch.dtype | None = None,
        execution: str = "auto",
        count_min: int = -8,
        count_max: int = 7,
        symmetric: bool = True,
        clip: str = "none",
        **zone: Any,
    ) -> None:
        self.rotation = Rotation(in_features, 0).on(torch.device("cpu")) if rotated else []
        self.gamma = None if norm is None else torch.randn(in_features).to(norm)
        self.threshold = None if clip == "none" else torch.tensor([0.2])
        self.encoder = EncodeSettings(count_min, count_max, symmetric, 0.9, clip, 1e-5, **zone).table()
        half = 1 << (bits - 1)
        weights = [torch.randint(-half, half, (out, in_features), dtype=torch.int8) for out in sizes]
        self.weights = [ops.arrange(ops.pack(weight, bits), in_features, layout) for weight in weights]
        self.scales = [torch.rand(out) for out in sizes]
        self.sums = [None if symmetric else weight.sum(1, dtype=torch.int32) for weight in weights]
        self.biases = [None if bias is None else torch.randn(out).to(bias) for out in sizes]
        self.products = ProductSettings(bits, max(-count_min, count_max), execution).table()
        self.in_features, self.symmetric = in_features, symmetric

    def operands(self, **replaced: Any) -> list[Tensor | None]:
        lists = {"weights": self.weights, "scales": self.scales, "sums": self.sums, "biases": self.biases, **replaced}
        return [tensor for member in zip(*lists.values(), strict=True) for tensor in member]

    def plan(self, **replaced: Any) -> Tensor:
        operands = self.operands(**replaced)
        front = self.rotation, self.gamma, self.threshold
        return plan_group(self.in_features, *front, self.encoder, operands, self.products)

    def steps(self, x: Tensor) -> list[Tensor]:
        counts, scale, zero, _ = ops.encode(x, self.rotation, self.gamma, self.threshold, self.encoder, False)
        zero_point = None if self.symmetric else zero
        outputs: list[Tensor] = ops.linears(counts, scale, zero_point, self.operands(), self.products, x.dtype)
        return outputs


SETTINGS: list[dict[str, Any]] = [
    {},
    {"rotated": False, "bits": 8, "sizes": (33,)},
    {"norm": torch.float32, "bias": torch.float32, **ASYMMETRIC},
    {"norm": torch.bfloat16, "bias": torch.float16, **WIDE},
    {"layout": "columns", "sizes": (20, 64, 6), "clip": "two-sided"},
    {"layout": "columns", "execution": "events", "bias": torch.bfloat16, **ASYMMETRIC},
    {"norm": torch.float16, "execution": "dense", "in_features": 576, "sizes": (16,) * 8, "bits": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_same_bits_as_its_steps(settings: dict[str, Any], instructions: str) -> None:
    group = Group(**settings)
    plan = group.plan()
    dtypes, shapes = (torch.float32, torch.bfloat16, torch.float16), ((0,), (1,), (2, 3), (130,))
    for dtype, shape in product(dtypes, shapes):
        x = torch.randn(*shape, group.in_features).to(dtype)
        for y, expected in zip(run_group(x, plan), group.steps(x), strict=True):
            assert y.dtype == dtype and y.shape == expected.shape and torch.equal(y, expected), (dtype, shape)


def test_a_threshold_is_read_when_the_plan_runs() -> None:
    group, x = Group(clip="relu"), torch.randn(5, 72)
    plan = group.plan()
    assert group.threshold is not None
    for tau in (0.1, 0.7):
        group.threshold.fill_(tau)
        assert all(map(torch.equal, run_group(x, plan), group.steps(x)))


def test_strided_input_and_threads(threads: Iterator[int]) -> None:
    group = Group(576, (96, 32))
    x = torch.randn(576, 260).mT[::2]
    for _ in threads:
        assert all(map(torch.equal, run_group(x, group.plan()), group.steps(x)))


def test_one_plan_serves_any_number_of_tokens() -> None:
    group = Group()
    plan = group.plan()
    for tokens in (300, 1, 7, 0, 90):
        x = torch.randn(tokens, 72)
        assert all(map(torch.equal, run_group(x, plan), group.steps(x)))


def test_only_what_stays_where_it_is() -> None:
    group = Group()
    packed = [ops.pack(torch.zeros(out, 72, dtype=torch.int8), 4) for out in (40, 19)]
    strided = [torch.rand(2 * out)[::2] for out in (40, 19)]
    doubles = [torch.rand(out, dtype=torch.float64) for out in (40, 19)]
    for replaced in ({"weights": packed}, {"scales": strided}, {"biases": strided}, {"biases": doubles}):
        with pytest.raises(RuntimeError, match="arranged weights and contiguous tensors"):
            group.plan(**replaced)


def test_what_does_not_fit_is_refused() -> None:
    group = Group()
    with pytest.raises(RuntimeError, match="another size"):
        run_group(torch.randn(2, 64), group.plan())
    with pytest.raises(RuntimeError, match="not a plan"):
        run_group(torch.randn(2, 72), torch.zeros(9, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="zero points and sums"):
        group.plan(sums=[torch.zeros(out, dtype=torch.int32) for out in (40, 19)])
    with pytest.raises(RuntimeError, match="adds up to more"):
        Group(**ASYMMETRIC).plan(sums=[torch.full((out,), 2**31 - 1, dtype=torch.int32) for out in (40, 19)])
    with pytest.raises(RuntimeError, match="counts up to 16384"):
        Group(count_min=-16384, count_max=16384).plan()
    with pytest.raises(RuntimeError, match="at most 8"):
        Group(sizes=(8,) * 9).plan()
    with pytest.raises(RuntimeError, match="only accumulate unfolds"):
        Group(execution="unfold").plan()
