"""Three executions, three layouts, one integer: all equal a brute-force int64 product, exactly."""

from typing import Any

import pytest
import torch
from samples import random_counts, random_weight
from torch import Tensor

from spikeconv import ops

LAYOUTS = ("packed", "tiles", "columns")
RUNS = [
    (execution, layout)
    for execution in ("auto", *ops.EXECUTIONS)
    for layout in LAYOUTS
    if (execution, layout) != ("events", "tiles")  # an event reads columns
]
EACH_RUN = pytest.mark.parametrize(("execution", "layout"), RUNS)
WEIGHT_BITS = range(2, 9)
COUNT_RANGES = {
    **{f"symmetric-{b}": (-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(2, 9)},
    **{f"full-{b}": (-(2 ** (b - 1)), 2 ** (b - 1)) for b in (4, 8)},
    **{f"asymmetric-{b}": (0, 2**b - 1) for b in range(2, 9)},
}


def product(counts: Tensor, weight: Tensor) -> Tensor:
    # Exact: |acc| < 2^53.
    return (counts.double() @ weight.double().mT).long()


def check(
    kernels: Any, counts: Tensor, weight: Tensor, bits: int, largest: int, execution: str, layout: str = "packed"
) -> None:
    packed = ops.pack(weight, bits).to(kernels.device)
    arranged = packed if layout == "packed" else kernels.arrange(packed, weight.shape[1], layout)
    acc = kernels.accumulate(counts.to(kernels.device), arranged, weight.shape[0], bits, largest, execution)
    assert acc.dtype == torch.int32 and acc.shape == (*counts.shape[:-1], weight.shape[0])
    assert torch.equal(acc.cpu().long(), product(counts, weight))


@EACH_RUN
@pytest.mark.parametrize("counts_in", COUNT_RANGES)
@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_equals_int64_product(bits: int, counts_in: str, execution: str, layout: str, kernels: Any) -> None:
    low, high = COUNT_RANGES[counts_in]
    counts = random_counts((7, 37), low, high)
    counts[0], counts[1], counts[2, ::2] = low, high, low  # extremes, alone and mixed
    check(kernels, counts, random_weight(19, 37, bits), bits, max(-low, high), execution, layout)


SHAPES = [
    (1, 1, 1),
    (1, 8, 16),
    (1, 577, 131),
    (2, 64, 128),
    (4, 1000, 17),
    (5, 256, 129),
    (7, 523, 260),
    (97, 96, 33),
    (200, 1100, 65),
    (2048, 72, 40),
]


@EACH_RUN
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize(("bits", "largest"), [(4, 8), (6, 32), (8, 128)])
def test_shapes(
    tokens: int, inputs: int, outputs: int, bits: int, largest: int, execution: str, layout: str, kernels: Any
) -> None:
    if execution == "unfold" and (largest > 8 or tokens > 200):
        tokens = 3  # T' products a token
    if kernels.name == "reference" and execution == "events":
        tokens = min(tokens, 100)  # a loop over tokens
    counts = random_counts((tokens, inputs), -largest, largest - 1)
    check(kernels, counts, random_weight(outputs, inputs, bits), bits, largest, execution, layout)


@EACH_RUN
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
def test_few_events(density: float, execution: str, layout: str, kernels: Any) -> None:
    counts = random_counts((3, 700), -8, 7) * (torch.rand(3, 700) < density)
    check(kernels, counts, random_weight(400, 700, 4), 4, 8, execution, layout)


@EACH_RUN
@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (2, 3), (2, 0), ()])
def test_leading_axes(lead: tuple[int, ...], execution: str, layout: str, kernels: Any) -> None:
    check(kernels, random_counts((*lead, 45), -8, 7), random_weight(11, 45, 4), 4, 8, execution, layout)


@EACH_RUN
def test_strided_and_unaligned_counts(execution: str, layout: str, kernels: Any) -> None:
    weight = random_weight(11, 45, 4)
    strided = random_counts((45, 6), -8, 7).mT
    assert not strided.is_contiguous()
    check(kernels, strided, weight, 4, 8, execution, layout)
    check(kernels, strided[:, ::3], weight[:, ::3], 4, 8, execution, layout)
    storage = random_counts((1 + 6 * 45,), -8, 7)
    check(kernels, storage[1:].view(6, 45), weight, 4, 8, execution, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unaligned_weight(layout: str, kernels: Any) -> None:
    weight, counts = random_weight(35, 61, 4), random_counts((3, 61), -8, 7)
    packed = ops.pack(weight, 4).to(kernels.device)
    arranged = packed if layout == "packed" else kernels.arrange(packed, 61, layout)
    shifted = torch.empty(arranged.numel() + 3, dtype=torch.uint8, device=kernels.device)[3:].view(arranged.shape)
    acc = kernels.accumulate(counts.to(kernels.device), shifted.copy_(arranged), 35, 4, 8, "auto")
    assert torch.equal(acc.cpu().long(), product(counts, weight))


@pytest.mark.parametrize("bits", [4, 6])
def test_columns_of_several_weights_side_by_side(bits: int, kernels: Any) -> None:
    """A group's columns are slices of one tensor."""
    weights = [random_weight(n, 50, bits) for n in (64, 10, 130)]
    columns = [kernels.arrange(ops.pack(w, bits).to(kernels.device), 50, "columns") for w in weights]
    parts = torch.cat(columns, 1).split([c.shape[1] for c in columns], 1)
    for tokens in (1, 4):
        counts = random_counts((tokens, 50), -8, 7)
        for weight, part in zip(weights, parts, strict=True):
            acc = kernels.accumulate(counts.to(kernels.device), part, weight.shape[0], bits, 8, "auto")
            assert torch.equal(acc.cpu().long(), product(counts, weight))


@pytest.mark.parametrize("tokens", [1, 3, 64])
@pytest.mark.parametrize(("execution", "layout"), [("dense", "tiles"), ("events", "columns"), ("dense", "columns")])
def test_any_number_of_threads(tokens: int, execution: str, layout: str, threads: int, kernels: Any) -> None:
    counts = random_counts((tokens, 2000), -8, 7)
    check(kernels, counts, random_weight(999, 2000, 4), 4, 8, execution, layout)


@EACH_RUN
def test_no_spikes_no_current(execution: str, layout: str, kernels: Any) -> None:
    counts = torch.zeros(3, 20, dtype=torch.int8)
    check(kernels, counts, torch.full((4, 20), -8, dtype=torch.int8), 4, 8, execution, layout)


@EACH_RUN
@pytest.mark.parametrize(("low", "high", "inputs"), [(-128, 127, 4097), (0, 255, 4609)])
def test_exact_beyond_float32(low: int, high: int, inputs: int, execution: str, layout: str, kernels: Any) -> None:
    """8-bit extremes pass 2^24, where a single float32 product would round."""
    counts = random_counts((3, inputs), low, high)
    counts[0], counts[1] = high, low
    weight = random_weight(5, inputs, 8)
    exact = product(counts, weight)
    assert (exact.float().long() != exact).any(), "the case must be beyond float32"
    check(kernels, counts, weight, 8, max(-low, high), execution, layout)


@EACH_RUN
def test_exact_under_autocast(execution: str, layout: str, device: torch.device) -> None:
    counts, weight = random_counts((5, 301), -8, 7), random_weight(7, 301, 4)
    packed = ops.pack(weight, 4).to(device)
    arranged = packed if layout == "packed" else ops.arrange(packed, 301, layout)
    with torch.autocast(device.type, torch.bfloat16):
        acc = ops.accumulate(counts.to(device), arranged, 7, 4, 8, execution)
    assert torch.equal(acc.cpu().long(), product(counts, weight))


def test_wrong_sizes_are_refused() -> None:
    counts, weight = random_counts((2, 40), -8, 7), ops.pack(random_weight(5, 48, 4), 4)
    with pytest.raises(RuntimeError):
        ops.accumulate(counts, ops.arrange(weight, 48, "tiles"), 5, 4, 8, "dense")
    with pytest.raises(RuntimeError):
        ops.accumulate(counts, ops.arrange(weight, 48, "columns"), 9, 4, 8, "dense")
