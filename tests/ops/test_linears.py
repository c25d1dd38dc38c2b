"""Several linears in one call: y = (acc - z Σ W) · s · s_w + b, bit for bit, in every dtype."""

from typing import Any

import pytest
import torch
from samples import linears_arguments, to

from spikeconv import ops
from spikeconv.ops import accumulation

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("layout", ["packed", "tiles", "columns"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [None, *DTYPES])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3, 130])
def test_same_bits_as_the_reference(
    tokens: int, zero: bool, bias: torch.dtype | None, dtype: torch.dtype, layout: str, kernels: Any
) -> None:
    given = linears_arguments((48, 16, 37), tokens, 4, zero, bias)
    expected = accumulation.linears(*given, dtype, "auto")
    moved = to(given, kernels.device)
    if layout != "packed":
        moved[3] = [kernels.arrange(weight, 90, layout) for weight in moved[3]]
    found = kernels.linears(*moved, dtype, "auto")
    for y, reference in zip(found, expected, strict=True):
        assert y.dtype == dtype and y.shape == reference.shape
        assert torch.equal(y.cpu(), reference)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width(bits: int, kernels: Any) -> None:
    given = linears_arguments((20, 70), 5, bits, True, torch.float32)
    expected = accumulation.linears(*given, torch.float32, "auto")
    found = kernels.linears(*to(given, kernels.device), torch.float32, "dense")
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


def test_rounding_to_half_precision_is_to_nearest_even(kernels: Any) -> None:
    """Accumulators that lie between two bfloat16 or float16 numbers, ties included."""
    counts = torch.ones(1, 16, dtype=torch.int8)
    weight = torch.arange(-8, 8, dtype=torch.int8).repeat(40, 1)
    scale = torch.linspace(0.9, 1.1, 40) * (1 + 2**-9)
    given = [counts, torch.ones(1, 1), None, [ops.pack(weight, 4)], [scale], [], [], 4, 8]
    for dtype in DTYPES:
        expected = accumulation.linears(*given, dtype, "dense")[0]
        assert torch.equal(kernels.linears(*to(given, kernels.device), dtype, "dense")[0].cpu(), expected)


def test_broken_scale_reaches_every_output(kernels: Any) -> None:
    given = to(linears_arguments((30,), 3, 4, False, None), kernels.device)
    given[1][1] = float("nan")
    for dtype in DTYPES:
        y = kernels.linears(*given, dtype, "auto")[0]
        assert y[1].isnan().all() and y[::2].isfinite().all()
