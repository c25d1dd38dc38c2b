"""Attention over rows of counts: the rows give back what was packed, and the executions compute the formula."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.ops import attention
from spikeconv.rotation import Rotation

CODES = pytest.mark.parametrize(
    ("bits", "symmetric"), [(2, True), (3, False), (4, True), (4, False), (5, True), (6, False), (8, True), (8, False)]
)
SIZES = pytest.mark.parametrize(("head_dim", "group"), [(64, 64), (64, 16), (20, 20), (36, 12)])
BATCH, KEY_HEADS, REPEATS, LENGTH = 2, 3, 2, 7


def encoded(head_dim: int, group: int, bits: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    low, high = (-(1 << bits - 1), 1 << bits - 1) if symmetric else (0, 1 << bits)
    shape = (BATCH, KEY_HEADS, LENGTH, head_dim // group)
    counts = torch.randint(low, high, (*shape, group), dtype=torch.int16)
    counts[0, 0, 0, 0, :2] = torch.tensor([low, high - 1], dtype=torch.int16)  # the ends are there
    zero = None if symmetric else torch.randint(0, high, (*shape, 1), dtype=torch.int32)
    return counts, torch.rand(*shape, 1) + 0.1, zero


@CODES
@SIZES
def test_rows_give_back_what_was_packed(bits: int, symmetric: bool, head_dim: int, group: int) -> None:
    counts, scale, zero = encoded(head_dim, group, bits, symmetric)
    rows = ops.pack_rows(counts, scale, zero, bits)
    assert rows.dtype == torch.uint8 and rows.shape == (BATCH, KEY_HEADS, LENGTH, rows.shape[-1])
    assert rows.shape[-1] == ops.row_bytes(head_dim, bits, group, symmetric)
    again = ops.unpack_rows(rows, head_dim, bits, group, symmetric)
    assert torch.equal(again[0].short(), counts) and torch.equal(again[1], scale)
    assert (again[2] is None) if zero is None else torch.equal(again[2], zero)  # type: ignore[arg-type]


def test_four_bits_take_a_quarter_of_bfloat16() -> None:
    assert 2 * 128 / ops.row_bytes(128, 4, 128, True) > 3.7
    assert 2 * 64 / ops.row_bytes(64, 4, 64, True) > 3.5


@CODES
@SIZES
@pytest.mark.parametrize("tokens", [1, 5])
def test_executions_compute_the_formula(bits: int, symmetric: bool, head_dim: int, group: int, tokens: int) -> None:
    k, v = (encoded(head_dim, group, bits, symmetric) for _ in range(2))
    keys, values = (
        (((n if z is None else n - z) * s).flatten(-2)).double().repeat_interleave(REPEATS, 1) for n, s, z in (k, v)
    )
    query = torch.randn(BATCH, KEY_HEADS * REPEATS, tokens, head_dim)
    mask = torch.zeros(BATCH, 1, tokens, LENGTH)
    mask[0, :, :, :2] = torch.finfo(torch.float32).min  # padding on the left
    scores = query.double() @ keys.mT * 0.1 + mask.double()
    expected = scores.softmax(-1) @ values
    rows = [ops.pack_rows(*states, bits) for states in (k, v)]
    for execution in ("dense", "unfold", "auto"):
        y = ops.attend(query, *rows, mask, 0.1, bits, group, symmetric, execution)
        assert y.dtype == torch.float32 and y.shape == query.shape
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_long_prompts_go_in_pieces() -> None:
    states = encoded(20, 20, 4, True)
    rows = ops.pack_rows(*states, 4)
    query = torch.randn(BATCH, KEY_HEADS, 600, 20)
    mask = torch.randn(600, LENGTH)
    whole = ops.attend(query, rows, rows, mask, 1.0, 4, 20, True, "dense")
    for token in (0, 255, 256, 599):
        alone = ops.attend(
            query[:, :, token : token + 1], rows, rows, mask[token : token + 1], 1.0, 4, 20, True, "dense"
        )
        torch.testing.assert_close(alone[:, :, 0], whole[:, :, token], rtol=0, atol=1e-5)


def test_shapes_without_running() -> None:
    rows = ops.pack_rows(*encoded(20, 20, 4, True), 4)
    arguments = (torch.randn(BATCH, KEY_HEADS, 3, 20), rows, rows, None, 1.0, 4, 20, True, "dense")
    torch.library.opcheck(ops.attend, arguments, test_utils=("test_schema", "test_faketensor"))


@CODES
@SIZES
@pytest.mark.parametrize("seed", range(3))
def test_rows_have_the_least_error_of_all_ranges(
    bits: int, symmetric: bool, head_dim: int, group: int, seed: int, kernels: Any
) -> None:
    """By the definition, in float64; where two errors are within rounding, either range may have been taken."""
    torch.manual_seed(seed)
    x = torch.randn(3, 4, head_dim) * torch.rand(3, 4, 1) * 10
    rotation, ratios = Rotation(head_dim, 2), [1.0, 0.9, 0.7]
    rows, statistics = kernels.encode_rows(
        x.to(kernels.device), *rotation.on(kernels.device), bits, group, symmetric, ratios, True
    )
    counts, scale, zero = ops.unpack_rows(rows.cpu(), head_dim, bits, group, symmetric)
    assert statistics.tolist() == [int(counts.short().abs().sum()), int((counts == 0).sum())]
    u = rotation(x).unflatten(-1, (-1, group)).double()
    error = (scale.double() * (counts.double() - (0 if zero is None else zero)) - u).square().sum(-1)
    top = (1 << bits - 1) - 1 if symmetric else (1 << bits) - 1
    errors = []
    for ratio in ratios:
        if symmetric:
            low, s, z = torch.zeros(()), ratio * u.abs().amax(-1, keepdim=True) / top, torch.zeros(())
        else:
            low, high = (ratio * end for end in (u.amin(-1, keepdim=True).clamp_max(0), u.amax(-1, keepdim=True)))
            s = (high.clamp_min(0) - low) / top
            z = (-low / s).round()
        k = ((u / s).round() + z).clamp(-top - 1 if symmetric else 0, top)
        errors.append((s * (k - z) - u).square().sum(-1))
    torch.testing.assert_close(error, torch.stack(errors).amin(0), rtol=1e-3, atol=1e-6)


@CODES
@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_the_bits_of_the_reference(
    bits: int, symmetric: bool, head_dim: int, group: int, dtype: torch.dtype, kernels: Any
) -> None:
    x = (torch.randn(2, 3, 5, head_dim) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    x[0, 0, 0] = 0
    x[0, 0, 1, 0] = float("inf")
    x[0, 0, 2, 0] = float("nan")
    arguments = (bits, group, symmetric, [1.0, 0.95, 0.9, 0.7], True)
    rotation = Rotation(head_dim, 2)
    expected = attention.encode_rows(x, *rotation.on(x.device), *arguments)
    found = kernels.encode_rows(x.to(kernels.device), *rotation.on(kernels.device), *arguments)
    finite = torch.ones(2, 3, 5, dtype=torch.bool)
    finite[0, 0, 1:3] = False  # of a token that is no number only that it stays none is promised
    assert torch.equal(found[0].cpu()[finite], expected[0][finite])
    for rows in (found[0].cpu(), expected[0]):
        _, scale, _ = ops.unpack_rows(rows[0, 0, 1:3], head_dim, bits, group, symmetric)
        assert not scale.isfinite().all(-2).any()
    finite_rows = kernels.encode_rows(x[1].to(kernels.device), *rotation.on(kernels.device), *arguments)
    assert torch.equal(finite_rows[1].cpu(), attention.encode_rows(x[1], *rotation.on(x.device), *arguments)[1])
