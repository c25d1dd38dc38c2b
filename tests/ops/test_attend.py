"""Attention over rows of counts: the rows give back what was packed, and the executions compute the formula."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codes import CODES as TEMPORAL
from spikeconv.codes import Ramp
from spikeconv.errors import SpikeconvError
from spikeconv.ops import RowSettings, attention
from spikeconv.rotation import Rotation

CODES = [  # settings, head_dim
    (RowSettings(2, 64, True), 64),
    (RowSettings(3, 12, False), 36),
    (RowSettings(4, 16, True), 64),
    (RowSettings(4, 160, True), 160),
    (RowSettings(4, 20, False), 20),
    (RowSettings(4, 64, False), 128),
    (RowSettings(5, 7, True), 7),
    (RowSettings(6, 5, False), 15),
    (RowSettings(7, 64, True), 64),
    (RowSettings(8, 12, True), 36),
    (RowSettings(8, 96, False), 96),
]
FEW_CODES = [(RowSettings(4, 64, True), 64), (RowSettings(4, 5, False), 15), (RowSettings(6, 36, False), 36)]
ONE = RowSettings(4, 20, True)
EXECUTIONS = ("dense", "unfold", "auto")
BATCH, KEY_HEADS, REPEATS, LENGTH = 2, 3, 2, 7
LOWEST = torch.finfo(torch.float32).min


def encoded(code: RowSettings, head_dim: int, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor | None]:
    low, high = code.count_min, code.count_min + code.bins
    shape = (BATCH, KEY_HEADS, length, head_dim // code.group)
    counts = torch.randint(low, high, (*shape, code.group), dtype=torch.int16)
    counts[0, 0, 0, 0, :2] = torch.tensor([low, high - 1], dtype=torch.int16)  # the ends are there
    zero = None if code.symmetric else torch.randint(0, high, (*shape, 1), dtype=torch.int32)
    return counts, (torch.rand(*shape, 1) + 0.1) / high * 8, zero


def decoded(counts: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """What the states are worth, in float64 and for every query head [batch, heads, length, head_dim]."""
    return ((counts if zero is None else counts - zero) * scale.double()).flatten(-2)


def oracle(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    repeats = query.shape[1] // keys.shape[1]
    scores = query.double() @ keys.repeat_interleave(repeats, 1).mT * scaling
    return (scores if mask is None else scores + mask.double()).softmax(-1) @ values.repeat_interleave(repeats, 1)


def attend(
    kernels: Any, query: Tensor, rows: Any, mask: Tensor | None, scaling: float, code: RowSettings, execution: str
) -> Tensor:
    where = kernels.device
    keys, values = (part.to(where) for part in rows)
    mask = None if mask is None else mask.to(where)
    y = kernels.attend(query.to(where), keys, values, mask, scaling, code.table(), execution)
    assert y.dtype == torch.float32 and y.shape == query.shape
    return y.cpu()  # type: ignore[no-any-return]


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within the bound that is promised."""
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_rows_give_back_what_was_packed() -> None:
    for code, head_dim in CODES:
        counts, scale, zero = encoded(code, head_dim)
        rows = ops.pack_rows(counts, scale, zero, code.bits)
        assert rows.dtype == torch.uint8 and rows.shape == (BATCH, KEY_HEADS, LENGTH, ops.row_bytes(head_dim, code))
        again = ops.unpack_rows(rows, head_dim, code)
        assert torch.equal(again[0].short(), counts) and torch.equal(again[1], scale)
        assert (again[2] is None) if zero is None else torch.equal(again[2], zero)  # type: ignore[arg-type]


def test_four_bits_take_a_quarter_of_bfloat16() -> None:
    assert 2 * 128 / ops.row_bytes(128, RowSettings(4, 128)) > 3.7
    assert 2 * 64 / ops.row_bytes(64, RowSettings(4, 64)) > 3.5


@pytest.mark.parametrize("tokens", [1, 5])
def test_executions_compute_the_formula(tokens: int, kernels: Any) -> None:
    for code, head_dim in CODES:
        k, v = (encoded(code, head_dim) for _ in range(2))
        query = torch.randn(BATCH, KEY_HEADS * REPEATS, tokens, head_dim)
        mask = torch.zeros(BATCH, 1, tokens, LENGTH)
        mask[0, :, :, :2] = LOWEST  # padding on the left
        rows = [ops.pack_rows(*states, code.bits) for states in (k, v)]
        expected = oracle(query, decoded(*k), decoded(*v), mask, 0.1)
        for execution in EXECUTIONS:
            assert_near(attend(kernels, query, rows, mask, 0.1, code, execution), expected)


def test_every_code_computes_the_formula() -> None:
    """Slot by slot, also with the fewest slots that a ramp can do with, up to counts of 255."""
    for settings, head_dim in CODES:
        k, v = (encoded(settings, head_dim) for _ in range(2))
        query = torch.randn(BATCH, KEY_HEADS * REPEATS, 3, head_dim)
        mask = torch.zeros(BATCH, 1, 3, LENGTH)
        mask[0, :, :, :2] = LOWEST
        rows = [ops.pack_rows(*states, settings.bits) for states in (k, v)]
        expected = oracle(query, decoded(*k), decoded(*v), mask, 0.1)
        largest = settings.largest_count
        assert largest == max(-settings.count_min, settings.count_min + settings.bins - 1)
        least = next(n for n in range(1, largest + 1) if n * (n + 1) // 2 >= largest)
        for code in (*TEMPORAL.values(), Ramp(least)):
            arguments = query, *rows, mask, 0.1, settings.table()
            assert_near(ops.attend_slots(*arguments, code.digits(largest), code.membrane), expected)
        with pytest.raises(SpikeconvError, match="digits"):
            ops.attend_slots(*arguments, TEMPORAL["unary"].digits(largest + 1), "add")


@pytest.mark.parametrize(("repeats", "tokens"), [(1, 1), (3, 1), (8, 1), (2, 3), (1, 40), (4, 40)])
def test_many_keys(repeats: int, tokens: int, kernels: Any) -> None:
    """Queries few and many, keys in several parts, under every kind of mask."""
    length = 1100 if tokens == 1 else 777
    causal = torch.ones(tokens, length, dtype=torch.bool).triu(length - tokens + 1)
    padded = torch.zeros(BATCH, 1, 1, length).masked_fill_(torch.arange(length) < length // 2, -float("inf"))
    masks = [
        None,
        torch.zeros(tokens, length).masked_fill_(causal, -float("inf")),
        torch.zeros(BATCH, 1, tokens, length).masked_fill_(causal, LOWEST),
        padded,
        torch.randn(1, KEY_HEADS * repeats, tokens, length),
    ]
    for code, head_dim in FEW_CODES:
        k, v = (encoded(code, head_dim, length) for _ in range(2))
        query = torch.randn(BATCH, KEY_HEADS * repeats, tokens, head_dim)
        rows = [ops.pack_rows(*states, code.bits) for states in (k, v)]
        for mask in masks:
            expected = oracle(query, decoded(*k), decoded(*v), mask, 0.3)
            assert_near(attend(kernels, query, rows, mask, 0.3, code, "auto"), expected)


@pytest.mark.parametrize("tokens", [1, 30])
def test_a_prompt_before_most_keys(tokens: int, kernels: Any) -> None:
    """Whole tiles of keys are in a query's future, or in everyone's past out of a window."""
    code = RowSettings(4, 64, True)
    k, v = (encoded(code, 64, 400) for _ in range(2))
    rows = [ops.pack_rows(*states, 4) for states in (k, v)]
    query = torch.randn(BATCH, KEY_HEADS, tokens, 64)
    position, key = torch.arange(tokens)[:, None] * 10, torch.arange(400)
    for seen in (key <= position, (key <= position) & (key > position - 50), key > position + 60):
        mask = torch.zeros(tokens, 400).masked_fill_(~seen, LOWEST)
        expected = oracle(query, decoded(*k), decoded(*v), mask, 0.1)
        assert_near(attend(kernels, query, rows, mask, 0.1, code, "dense"), expected)


@pytest.mark.parametrize("tokens", [1, 20])
def test_a_query_that_sees_nothing(tokens: int, kernels: Any) -> None:
    """The lowest number leaves all keys alike; minus infinity leaves none, and no number."""
    code = RowSettings(4, 20, False)
    k, v = (encoded(code, 20, 100) for _ in range(2))
    rows = [ops.pack_rows(*states, 4) for states in (k, v)]
    query = torch.randn(BATCH, KEY_HEADS, tokens, 20)
    mask = torch.zeros(BATCH, 1, tokens, 100)
    mask[1] = LOWEST
    for execution in EXECUTIONS:
        y = attend(kernels, query, rows, mask, 0.1, code, execution)
        assert_near(y[1], decoded(*v)[1].mean(1, keepdim=True).expand(-1, tokens, -1))
        nothing = attend(kernels, query, rows, mask.clamp(min=-1) * float("inf"), 0.1, code, execution)
        assert nothing[1].isnan().all()


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("symmetric", [True, False])
def test_powers_of_two_are_exact(tokens: int, symmetric: bool, kernels: Any) -> None:
    """Where nothing is rounded, all executions give the same: one key that counts, or two that count alike."""
    code = RowSettings(4, 32, symmetric)
    counts, _, zero = encoded(code, 64)
    scale = 2.0 ** torch.randint(-3, 3, (*counts.shape[:-1], 1))
    keys, values = ops.pack_rows(counts, scale, zero, 4), ops.pack_rows(counts.flip(2), scale, zero, 4)
    query = torch.randint(-4, 5, (BATCH, KEY_HEADS * REPEATS, tokens, 64)).float()
    worth = decoded(counts.flip(2), scale, zero).repeat_interleave(REPEATS, 1)
    alone = torch.full((1, LENGTH), -float("inf"))
    alone[0, 3] = 0
    for execution in EXECUTIONS:
        y = attend(kernels, query, (keys, values), alone, 0.25, code, execution)
        assert torch.equal(y.double(), worth[:, :, 3:4].expand(-1, -1, tokens, -1))
        y = attend(kernels, 0 * query, (keys[:, :, :2], values[:, :, :2]), None, 0.25, code, execution)
        assert torch.equal(y.double(), worth[:, :, :2].mean(2, keepdim=True).expand(-1, -1, tokens, -1))


@pytest.mark.parametrize("tokens", [1, 12])
def test_slices_of_a_cache(tokens: int, kernels: Any) -> None:
    """Rows may be parts of a larger cache, keys and values of different ones, with any order of axes."""
    k, v = (encoded(ONE, 20) for _ in range(2))
    keys, values = (ops.pack_rows(*states, 4) for states in (k, v))
    query = torch.randn(BATCH, KEY_HEADS * REPEATS, tokens, 20)
    expected = attend(kernels, query, (keys, values), None, 0.1, ONE, "auto")
    cache = torch.full((BATCH + 1, LENGTH + 5, KEY_HEADS + 2, 2 * keys.shape[-1]), 255, dtype=torch.uint8)
    behind = cache[1:, 2 : 2 + LENGTH, 1:-1, : keys.shape[-1]].transpose(1, 2)
    behind.copy_(keys)
    scattered = cache[1:, 2 : 2 + LENGTH, 1:-1, 1::2].transpose(1, 2)
    for execution in EXECUTIONS:
        sliced = attend(kernels, query, (behind, values), None, 0.1, ONE, execution)
        torch.testing.assert_close(sliced, expected, rtol=0, atol=1e-5)
    scattered.copy_(values)
    sliced = attend(kernels, query, (keys, scattered), None, 0.1, ONE, "auto")
    assert torch.equal(sliced, expected)
    wide = torch.randn(tokens, 2 * LENGTH)
    masked = [attend(kernels, query, (keys, values), m, 0.1, ONE, "auto") for m in (wide[:, ::2].clone(), wide[:, ::2])]
    assert torch.equal(*masked)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 12])
def test_queries_of_few_bits_are_taken_as_they_are(tokens: int, dtype: torch.dtype, kernels: Any) -> None:
    k, v = (encoded(ONE, 20) for _ in range(2))
    rows = [ops.pack_rows(*states, 4) for states in (k, v)]
    query = torch.randn(BATCH, KEY_HEADS * REPEATS, tokens, 20).to(dtype)
    mask = torch.zeros(BATCH, 1, tokens, LENGTH, dtype=dtype)
    mask[0, :, :, :2] = torch.finfo(dtype).min
    expected = oracle(query, decoded(*k), decoded(*v), mask, 0.1)
    for execution in EXECUTIONS:
        assert_near(attend(kernels, query, rows, mask, 0.1, ONE, execution), expected)


def test_long_prompts_go_in_pieces(kernels: Any) -> None:
    rows = ops.pack_rows(*encoded(ONE, 20), 4)
    query = torch.randn(BATCH, KEY_HEADS, 600, 20)
    mask = torch.randn(600, LENGTH)
    whole = attend(kernels, query, (rows, rows), mask, 1.0, ONE, "dense")
    for token in (0, 127, 128, 255, 256, 599):
        one = slice(token, token + 1)
        alone = attend(kernels, query[:, :, one], (rows, rows), mask[one], 1.0, ONE, "dense")
        assert_near(alone[:, :, 0], whole[:, :, token].double())


def test_some_queries_more_than_a_part_takes(kernels: Any) -> None:
    """34 tokens by four heads: what is left of a part of 128 must not be few queries of very many keys."""
    code = RowSettings(4, 8, True)
    counts, scale, _ = encoded(code, 8, 9000)
    rows = ops.pack_rows(counts[:1, :1], scale[:1, :1], None, 4)
    query = torch.randn(1, 4, 34, 8)
    expected = oracle(query, *[decoded(counts[:1, :1], scale[:1, :1], None)] * 2, None, 0.1)
    assert_near(attend(kernels, query, (rows, rows), None, 0.1, code, "dense"), expected)


def test_any_number_of_threads_gives_the_same_bits(threads: Iterator[int]) -> None:
    rotation, x = Rotation(64, 2).on(torch.device("cpu")), torch.randn(BATCH, KEY_HEADS, 1100, 64)
    table = RowSettings(4, 64, True, (1.0, 0.9, 0.7)).table()
    queries = [torch.randn(BATCH, KEY_HEADS * REPEATS, tokens, 64) for tokens in (1, 7, 150)]
    seen: list[list[Tensor]] = []
    for _ in threads:
        rows, histogram = ops.encode_rows(x, rotation, table, True)
        outputs = [ops.attend(q, rows, rows, None, 0.1, table, "auto") for q in queries]
        seen.append([rows, histogram, *outputs])
    for others in seen[1:]:
        assert all(map(torch.equal, seen[0], others))


def test_shapes_without_running() -> None:
    rows = ops.pack_rows(*encoded(ONE, 20), 4)
    arguments = (torch.randn(BATCH, KEY_HEADS, 3, 20), rows, rows, None, 1.0, ONE.table(), "dense")
    torch.library.opcheck(ops.attend, arguments, test_utils=("test_schema", "test_faketensor"))


def test_rows_have_the_least_error_of_all_ranges(kernels: Any) -> None:
    """By the definition, in float64; where two errors are within rounding, either range may have been taken."""
    ratios = (1.0, 0.9, 0.7)
    for code, head_dim in CODES:
        x = torch.randn(9, 4, head_dim) * torch.rand(9, 4, 1) * 10
        rotation, top = Rotation(head_dim, 2), code.count_min + code.bins - 1
        table = code._replace(clip_ratios=ratios).table()
        rows, histogram = kernels.encode_rows(x.to(kernels.device), rotation.on(kernels.device), table, True)
        counts, scale, zero = ops.unpack_rows(rows.cpu(), head_dim, code)
        values = counts.flatten().tolist()
        assert histogram.tolist() == [values.count(count) for count in range(code.count_min, top + 1)]
        u = rotation(x).unflatten(-1, (-1, code.group)).double()
        error = (scale.double() * (counts.double() - (0 if zero is None else zero)) - u).square().sum(-1)
        errors = []
        for ratio in ratios:
            if code.symmetric:
                # Any sign of the scale would do: the largest input lies at the end that is further from zero.
                largest = u.gather(-1, u.abs().argmax(-1, keepdim=True))
                s, z = ratio * largest / -(top + 1), torch.zeros(())
            else:
                low, high = (ratio * end for end in (u.amin(-1, keepdim=True).clamp_max(0), u.amax(-1, keepdim=True)))
                s = (high.clamp_min(0) - low) / top
                z = (-low / s).round()
            k = ((u / s).round() + z).clamp(code.count_min, top)
            errors.append((s * (k - z) - u).square().sum(-1))
        torch.testing.assert_close(error, torch.stack(errors).amin(0), rtol=1e-3, atol=1e-6)


def test_rows_are_the_bits_of_the_reference(kernels: Any) -> None:
    for code, head_dim in CODES:
        rotation, table = Rotation(head_dim, 2), code._replace(clip_ratios=(1.0, 0.95, 0.9, 0.7)).table()
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = (torch.randn(2, 3, 5, head_dim) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
            x[0, 0, 0] = 0
            x[0, 0, 1, 0] = float("inf")
            x[0, 0, 2, 0] = float("nan")
            expected = attention.encode_rows(x, rotation.on(x.device), table, True)
            found = kernels.encode_rows(x.to(kernels.device), rotation.on(kernels.device), table, True)
            finite = torch.ones(2, 3, 5, dtype=torch.bool)
            finite[0, 0, 1:3] = False  # of a token that is no number only that it stays none is promised
            assert torch.equal(found[0].cpu()[finite], expected[0][finite]), code
            for rows in (found[0].cpu(), expected[0]):
                _, scale, _ = ops.unpack_rows(rows[0, 0, 1:3], head_dim, code)
                assert not scale.isfinite().all(-2).any()
            alone = kernels.encode_rows(x[1].to(kernels.device), rotation.on(kernels.device), table, True)
            assert torch.equal(alone[1].cpu(), attention.encode_rows(x[1], rotation.on(x.device), table, True)[1])


def test_settings_that_no_kernel_takes_are_a_sentence(kernels: Any) -> None:
    rotation, x = Rotation(16, 2).on(kernels.device), torch.randn(2, 16, device=kernels.device)
    bad = {
        "2 to 8 bits, not 9": RowSettings(9, 16),
        "do not divide": RowSettings(4, 5),
        "17 clip ratios": RowSettings(4, 16, True, (1.0,) * 17),
        "clip ratio of 0|clip ratio of -1": RowSettings(4, 16, True, (1.0, 0.0)),
    }
    for sentence, settings in bad.items():
        with pytest.raises(Exception, match=sentence):
            kernels.encode_rows(x, rotation, settings.table(), False)
