"""Three executions, one integer: all equal a brute-force int64 product, exactly."""

import pytest
import torch
from torch import Tensor

from spikeconv import ops

EXECUTIONS = pytest.mark.parametrize("execution", ops.EXECUTIONS)
WEIGHT_BITS = range(2, 9)
COUNT_RANGES = {
    **{f"symmetric-{b}": (-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(2, 9)},
    **{f"full-{b}": (-(2 ** (b - 1)), 2 ** (b - 1)) for b in (4, 8)},
    **{f"asymmetric-{b}": (0, 2**b - 1) for b in range(2, 9)},
}


def count_dtype(low: int, high: int) -> torch.dtype:
    return torch.int8 if low >= -128 and high <= 127 else torch.int16


def product(counts: Tensor, weight: Tensor) -> Tensor:
    return (counts.long()[..., None, :] * weight.long()).sum(-1)


def check(counts: Tensor, weight: Tensor, bits: int, largest: int, execution: str) -> None:
    acc = ops.accumulate(counts, ops.pack(weight, bits), largest, execution)
    assert acc.dtype == torch.int32 and acc.shape == (*counts.shape[:-1], weight.shape[0])
    assert torch.equal(acc.long(), product(counts, weight))


@EXECUTIONS
@pytest.mark.parametrize("counts_in", COUNT_RANGES)
@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_equals_int64_product(bits: int, counts_in: str, execution: str, device: torch.device) -> None:
    low, high = COUNT_RANGES[counts_in]
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    counts = torch.randint(low, high + 1, (7, 37), device=device).to(count_dtype(low, high))
    counts[0], counts[1], counts[2, ::2] = low, high, low  # extremes, alone and mixed
    weight = torch.randint(lowest, highest + 1, (19, 37), device=device).to(torch.int8)
    weight[0], weight[1] = lowest, highest
    check(counts, weight, bits, max(-low, high), execution)


@EXECUTIONS
@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (2, 3), (2, 0), ()])
def test_leading_axes(lead: tuple[int, ...], execution: str, device: torch.device) -> None:
    counts = torch.randint(-8, 8, (*lead, 45), dtype=torch.int8, device=device)
    weight = torch.randint(-8, 8, (11, 45), dtype=torch.int8, device=device)
    check(counts, weight, 4, 8, execution)


@EXECUTIONS
def test_strided_counts(execution: str, device: torch.device) -> None:
    counts = torch.randint(-8, 8, (45, 6), dtype=torch.int8, device=device).mT
    weight = torch.randint(-8, 8, (11, 45), dtype=torch.int8, device=device)
    assert not counts.is_contiguous()
    check(counts, weight, 4, 8, execution)
    check(counts[:, ::3], weight[:, ::3], 4, 8, execution)


@EXECUTIONS
def test_no_spikes_no_current(execution: str, device: torch.device) -> None:
    counts = torch.zeros(3, 20, dtype=torch.int8, device=device)
    weight = torch.full((4, 20), -8, dtype=torch.int8, device=device)
    assert not ops.accumulate(counts, ops.pack(weight, 4), 8, execution).any()


@EXECUTIONS
@pytest.mark.parametrize(("low", "high", "inputs"), [(-128, 127, 4097), (0, 255, 4609)])
def test_exact_beyond_float32(low: int, high: int, inputs: int, execution: str, device: torch.device) -> None:
    """8-bit extremes pass 2^24, where a single float32 product would round."""
    counts = torch.full((3, inputs), high, device=device).to(count_dtype(low, high))
    counts[1] = low
    counts[2] = torch.randint(low, high + 1, (inputs,), device=device)
    weight = torch.full((5, inputs), 127, dtype=torch.int8, device=device)
    weight[1] = -128
    weight[2] = torch.randint(-128, 128, (inputs,), device=device)
    exact = product(counts, weight)
    assert (exact.float().long() != exact).any(), "the case must be beyond float32"
    check(counts, weight, 8, max(-low, high), execution)


@EXECUTIONS
def test_exact_under_autocast(execution: str, device: torch.device) -> None:
    counts = torch.randint(-8, 8, (5, 301), dtype=torch.int8, device=device)
    weight = torch.randint(-8, 8, (7, 301), dtype=torch.int8, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        check(counts, weight, 4, 8, execution)
