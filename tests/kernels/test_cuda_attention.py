"""Emulated CUDA rows and attention (see conftest.py): rows are the reference's bytes, attention is near its formula."""

from collections.abc import Callable
from itertools import product as every
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv.ops import RowSettings, attention
from spikeconv.rotation import Rotation

WIDTHS = list(every(range(2, 9), (True, False)))  # bits, symmetric
RATIOS = (1.0, 0.95, 0.9, 0.7)


@pytest.mark.parametrize(
    ("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (36, 12), (64, 8), (80, 80), (128, 128), (256, 64), (512, 512)]
)
def test_encode_rows(ops: Any, head_dim: int, group: int, any_order: Callable[[int], None]) -> None:
    rotation = Rotation(head_dim, 2).on(torch.device("cpu"))
    for bits, symmetric in WIDTHS:
        any_order(bits)
        x = torch.randn(2, 3, 3, head_dim) * torch.logspace(-3, 3, 9).view(3, 3, 1)
        x[0, 0, 0], x[0, 0, 1, 1], x[0, 1, 1, 0] = 0, torch.nan, torch.inf
        x[1, 2, 2] *= 1e30  # errors are infinite, and so none is less than the first
        settings = RowSettings(bits, group, symmetric, RATIOS)
        rows, histogram = ops.encode_rows(x, rotation, settings.table(), True)
        expected, expected_histogram = attention.encode_rows(x, rotation, settings.table(), True)
        number = torch.ones(2, 3, 3, dtype=torch.bool)
        number[0, 0, 1] = number[0, 1, 1] = False  # of others only that they are none is promised
        assert torch.equal(rows[number], expected[number]) and torch.equal(histogram, expected_histogram), settings
        found, wanted = (unpack(r[~number], head_dim, settings)[1] for r in (rows, expected))
        assert torch.equal(found.isfinite(), wanted.isfinite()), settings


def test_encode_rows_in_any_order(ops: Any, any_order: Callable[[int], None]) -> None:
    shapes, dtypes = ((20, 4), (128, 128)), (torch.float32, torch.bfloat16, torch.float16)
    for (head_dim, group), dtype, order in every(shapes, dtypes, range(3)):
        any_order(order)
        x = torch.randn(3, 7, head_dim, 2).to(dtype).mT  # not contiguous
        for ratios in ((1.0,), RATIOS):
            table = RowSettings(4, group, True, ratios).table()
            arguments = (x, Rotation(head_dim, 2).on(x.device), table, False)
            for ours, wanted in zip(ops.encode_rows(*arguments), attention.encode_rows(*arguments), strict=True):
                assert torch.equal(ours, wanted), (head_dim, dtype, order)


def unpack(rows: Tensor, head_dim: int, settings: RowSettings) -> list[Tensor]:
    """Counts, scales and zero points, those of signed counts being 0."""
    counts, scale, zero = attention.unpack_rows(rows, head_dim, settings)
    return [counts, scale, torch.zeros_like(scale) if zero is None else zero]


def random_rows(heads: int, length: int, head_dim: int, settings: RowSettings) -> tuple[Tensor, Tensor]:
    """Rows of keys and of values of a batch of two."""
    rotation, table = Rotation(head_dim, 2).on(torch.device("cpu")), settings._replace(clip_ratios=(1.0, 0.9)).table()
    keys, values = (
        attention.encode_rows(torch.randn(2, heads, length, head_dim), rotation, table, False)[0] for _ in range(2)
    )
    return keys, values


def exact_attention(query: Tensor, rows: Any, mask: Tensor | None, scaling: float, code: RowSettings) -> Tensor:
    keys, values = (
        ((counts.double() - zero) * scale.double()).flatten(-2).repeat_interleave(query.shape[1] // r.shape[1], 1)
        for r in rows
        for counts, scale, zero in [unpack(r, query.shape[-1], code)]
    )
    scores = query.double() @ keys.mT * scaling
    return (scores if mask is None else scores + mask.double()).softmax(-1) @ values


def assert_attends(
    ops: Any, query: Tensor, rows: Any, mask: Tensor | None, code: RowSettings, *executions: str
) -> None:
    expected = exact_attention(query, rows, mask, 0.2, code)
    bound = 2e-5 * expected.nan_to_num(0).abs().max().item()
    for execution in executions:
        y = ops.attend(query, *rows, mask, 0.2, code.table(), execution)
        assert y.dtype == torch.float32 and y.shape == query.shape
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.parametrize(("head_dim", "group"), [(7, 7), (15, 5), (20, 20), (64, 16), (128, 128)])
def test_attend_to_any_code(ops: Any, head_dim: int, group: int, any_order: Callable[[int], None]) -> None:
    for bits, symmetric in WIDTHS:
        any_order(bits)
        code = RowSettings(bits, group, symmetric)
        rows = random_rows(2, 37, head_dim, code)
        assert_attends(ops, torch.randn(2, 4, 3, head_dim), rows, None, code, "dense", "unfold")


def mask_of(kind: str, heads: int, tokens: int, length: int) -> Tensor | None:
    least = torch.finfo(torch.float32).min
    mask = torch.randn(2, heads, tokens, length)
    if kind == "none":
        return None
    if kind == "of-positions":
        return mask[0, 0, 0]
    if kind == "of-sequences":
        return mask[:, :1, :1]
    if kind == "infinite":  # the first tile of all queries, and all of one query
        mask[..., : min(130, length - 1)] = -torch.inf
        mask[0, 0, -1] = -torch.inf
    if kind == "least":
        mask[..., : min(130, length - 1)] = least
        mask[1, :, 0] = least
    return mask


@pytest.mark.parametrize("kind", ["none", "of-positions", "of-sequences", "infinite", "least"])
def test_attend(ops: Any, kind: str, any_order: Callable[[int], None]) -> None:
    any_order(len(kind))  # all three occur
    code = RowSettings(4, 20)
    for tokens, repeats, length in ((1, 1, 300), (1, 4, 300), (3, 3, 140), (40, 2, 150), (3, 1, 1)):
        query, rows = torch.randn(2, 2 * repeats, tokens, 20), random_rows(2, length, 20, code)
        mask = mask_of(kind, 2 * repeats, tokens, length)
        assert_attends(ops, query, rows, mask, code, *(("auto", "unfold") if tokens == 3 else ("auto",)))


def test_attend_in_any_dtype(ops: Any) -> None:
    code = RowSettings(8, 8, False)
    for dtype, mask_dtype in every(
        (torch.float32, torch.bfloat16, torch.float16), (torch.float64, torch.bfloat16, torch.float16)
    ):
        query = torch.randn(2, 3, 4, 24).to(dtype).transpose(1, 2)  # not contiguous
        mask = torch.randn(4, 3, 50).mT.to(mask_dtype).mT
        assert_attends(ops, query, random_rows(2, 50, 24, code), mask, code, "dense")


@pytest.mark.parametrize("symmetric", [True, False])  # rows of whole words, and at odd addresses
def test_attend_to_a_part_of_a_cache(ops: Any, symmetric: bool) -> None:
    code = RowSettings(4, 32, symmetric)
    rows = random_rows(3, 60, 32, code)
    cached = []
    for part in rows:
        cache = torch.full((2, 80, 4, part.shape[-1]), 0xFF, dtype=torch.uint8)
        cache[:, 7:67, 1:] = part.transpose(1, 2)
        cached.append(cache[:, 7:67, 1:].transpose(1, 2))
    query = torch.randn(2, 3, 2, 32)
    part, whole = (ops.attend(query, *held, None, 0.2, code.table(), "dense") for held in (cached, rows))
    assert torch.equal(part, whole)
    assert_attends(ops, query, cached, None, code, "dense")


def test_attend_to_a_long_past(ops: Any) -> None:
    """More positions than 64 splits of two tiles."""
    code = RowSettings(4, 8)
    rows = [part[:1].repeat(1, 1, 30, 1) for part in random_rows(1, 550, 8, code)]
    assert_attends(ops, torch.randn(1, 1, 1, 8), rows, None, code, "dense")


def test_attend_to_rows_of_many_scales(ops: Any) -> None:
    """A tile of 128 of these would not fit into shared memory."""
    code = RowSettings(8, 2, False)
    assert_attends(ops, torch.randn(2, 1, 2, 512), random_rows(1, 21, 512, code), None, code, "dense")


def test_no_number_spreads_as_in_the_reference(ops: Any) -> None:
    code = RowSettings(4, 16)
    rows = random_rows(2, 9, 16, code)
    rows[0][0, 1, 3, -4:] = rows[1][1, 0, 5, -4:] = 255  # NaN as a key's and as a value's scale
    query = torch.randn(2, 4, 3, 16)
    y, expected = (f(query, *rows, None, 0.2, code.table(), "dense") for f in (ops.attend, attention.attend))
    assert torch.equal(y.isnan(), expected.isnan()) and 0 < y.isnan().sum() < y.numel()


def test_attend_to_nothing_and_to_other_rows(ops: Any) -> None:
    code = RowSettings(4, 16)
    keys, values = random_rows(2, 5, 16, code)
    query = torch.randn(2, 4, 3, 16)
    assert not ops.attend(query, keys[:, :, :0], values[:, :, :0], None, 0.2, code.table(), "dense").any()
    assert ops.attend(query[:, :, :0], keys, values, None, 0.2, code.table(), "dense").shape == (2, 4, 0, 16)
    for sentence, settings, mask in (
        ("expected rows", RowSettings(5, 16), None),
        ("do not divide", RowSettings(4, 12), None),
        ("a mask of 4", code, torch.zeros(4)),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            ops.attend(query, keys, values, mask, 0.2, settings.table(), "dense")
