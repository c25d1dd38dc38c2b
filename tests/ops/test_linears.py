"""Several linears in one call: y = (acc - z Σ W) · s · s_w + b, bit for bit, in every dtype."""

from itertools import product
from typing import Any

import pytest
import torch
from samples import linears_arguments, to

from spikeconv import ops
from spikeconv.ops import ProductSettings, accumulation

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def table(bits: int = 4, execution: str = "auto") -> list[float]:
    return ProductSettings(bits, 15, execution).table()


@pytest.mark.parametrize("tokens", [0, 1, 3, 130])
def test_same_bits_as_the_reference(tokens: int, kernels: Any) -> None:
    for zero, bias, dtype in product((False, True), (None, *DTYPES), DTYPES):
        given = linears_arguments((48, 16, 37), tokens, 4, zero, bias)
        expected = accumulation.linears(*given, table(), dtype)
        moved = to(given, kernels.device)
        packed = moved[3][::4]
        for layout in ("packed", "tiles", "columns", "columns side by side"):
            if layout != "packed":
                moved[3][::4] = arranged = [kernels.arrange(weight, 90, layout.split()[0]) for weight in packed]
            if layout == "columns side by side":
                moved[3][::4] = torch.cat(arranged, 1).split([weight.shape[1] for weight in arranged], 1)
            for y, reference in zip(kernels.linears(*moved, table(), dtype), expected, strict=True):
                assert y.dtype == dtype and y.shape == reference.shape
                assert torch.equal(y.cpu(), reference), (layout, zero, bias, dtype)


def test_every_width(kernels: Any) -> None:
    for bits in range(2, 9):
        given = linears_arguments((20, 70), 5, bits, True, torch.float32)
        expected = accumulation.linears(*given, table(bits), torch.float32)
        found = kernels.linears(*to(given, kernels.device), table(bits, "dense"), torch.float32)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True)), bits


def test_rounding_to_half_precision_is_to_nearest_even(kernels: Any) -> None:
    """Accumulators that lie between two bfloat16 or float16 numbers, ties included."""
    counts = torch.ones(1, 16, dtype=torch.int8)
    weight = torch.arange(-8, 8, dtype=torch.int8).repeat(40, 1)
    scale = torch.linspace(0.9, 1.1, 40) * (1 + 2**-9)
    given = [counts, torch.ones(1, 1), None, [ops.pack(weight, 4), scale, None, None]]
    for dtype in DTYPES:
        expected = accumulation.linears(*given, table(), dtype)[0]
        assert torch.equal(kernels.linears(*to(given, kernels.device), table(4, "dense"), dtype)[0].cpu(), expected)


def test_broken_scale_reaches_every_output(kernels: Any) -> None:
    given = to(linears_arguments((30,), 3, 4, False, None), kernels.device)
    given[1][1] = float("nan")
    for dtype in DTYPES:
        y = kernels.linears(*given, table(), dtype)[0]
        assert y[1].isnan().all() and y[::2].isfinite().all()


def test_what_does_not_fit_is_refused(kernels: Any) -> None:
    counts, scale, zero, operands = to(linears_arguments((30, 8), 3, 4, True, None), kernels.device)
    without_sums = [tensor if i % 4 != 2 else None for i, tensor in enumerate(operands)]
    bad: list[tuple[str, Any, Any, list[float]]] = [
        ("nly .?accumulate.? unfolds", zero, operands, table(execution="unfold")),
        ("come together", zero, without_sums, table()),
        ("come together", None, operands, table()),
        ("counts up to 16384", zero, operands, ProductSettings(4, 16384).table()),
    ]
    if kernels.device.type == "cpu":  # elsewhere it would take a synchronisation
        overflowing = [*operands]
        overflowing[2] = torch.full_like(operands[2], 2**31 - 1)
        bad.append(("adds up to", zero, overflowing, table()))
    for sentence, zero_point, tensors, settings in bad:
        with pytest.raises(Exception, match=sentence):
            kernels.linears(counts, scale, zero_point, tensors, settings, torch.float32)
