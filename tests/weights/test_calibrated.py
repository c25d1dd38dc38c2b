"""GPTQ, GPTAQ and Qronos against the textbook: dense solves, one column at a time, every integer vector."""

from itertools import product

import pytest
import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.errors import SpikeconvError
from spikeconv.weights import CalibratedWeight, Statistics, dequantize, quantize_calibrated, quantize_rtn
from spikeconv.weights.gptaq import asymmetry
from spikeconv.weights.hessian import factorize
from spikeconv.weights.scale import search_scale
from spikeconv.weights.sweep import sweep

BITS = (2, 3, 4, 5, 6, 8)


def inputs(tokens: int, features: int, seed: int = 0, rank: int | None = None) -> Tensor:
    """Correlated inputs [tokens, features] float64 of very different sizes, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or features, features, generator=generator, dtype=torch.float64)
    mix *= torch.logspace(-1, 1, features, dtype=torch.float64)
    return torch.randn(tokens, len(mix), generator=generator, dtype=torch.float64) @ mix


def observed(counts: Tensor, floats: Tensor, residual: Tensor | None = None) -> Statistics:
    """The sums that a calibration makes, of [tokens, in] counts and float inputs and of [tokens, out] residuals."""
    errors = floats - counts
    return Statistics(
        counts.mT @ counts,
        counts.mT @ errors,
        None if residual is None else counts.mT @ residual,
        float(len(counts)),
        counts.sum(0),
        errors.sum(0),
        None if residual is None else residual.sum(0),
    )


def integers(found: CalibratedWeight, columns: int) -> Tensor:
    return ops.unpack(found.quantized.packed, columns)


def restored(found: CalibratedWeight, columns: int) -> Tensor:
    return dequantize(integers(found, columns), found.quantized.scale).double()


def textbook_gptq(
    weight: Tensor, hessian: Tensor, scale: Tensor, bits: int, damping: float, first: Tensor | None = None
) -> Tensor:
    """OBQ in a fixed order, [out, in]: round an input, solve for all that are left, one at a time and densely."""
    top = 2 ** (bits - 1) - 1
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    w, q = weight.clone(), torch.zeros_like(weight)
    for index, i in enumerate(order):
        start = first if first is not None and index == 0 else w[:, i]
        q[:, i] = (start / scale).round().clamp(-top - 1, top)
        left = order[index + 1 :]
        if left:
            error = w[:, i] - q[:, i] * scale
            shift = torch.linalg.solve(damped[left][:, left], damped[left, i])
            w[:, left] += error[:, None] * shift
    return q


@pytest.mark.parametrize("bits", BITS)
def test_gptq_is_the_textbooks(bits: int) -> None:
    for seed, (rows, columns) in enumerate([(7, 24), (3, 41), (5, 150)]):
        x = inputs(4 * columns, columns, seed)
        hessian, weight = x.mT @ x, torch.randn(rows, columns, dtype=torch.float64)
        found = quantize_calibrated(weight, Statistics(hessian), bits, damping=0.05)
        scale = search_scale(weight, hessian.diagonal(), bits).double()
        assert torch.equal(integers(found, columns).double(), textbook_gptq(weight, hessian, scale, bits, 0.05))
        assert found.damping == 0.05 and found.bias is None


def test_blocks_do_not_change_the_integers() -> None:
    x = inputs(900, 300, 1)
    factor = factorize(x.mT @ x, 0.1)
    weight = torch.randn(300, 9, dtype=torch.float64)
    scale = search_scale(weight.mT, torch.ones(300), 4).double()
    extra = asymmetry(0.1 * torch.randn(300, 300, dtype=torch.float64) * (x.mT @ x).diagonal(), factor.upper)
    for p in (None, extra):
        whole = sweep(weight, factor.upper, scale, 4, asymmetry=p, block=300)
        assert all(torch.equal(whole, sweep(weight, factor.upper, scale, 4, asymmetry=p, block=b)) for b in (1, 7, 128))


def test_inputs_that_know_nothing_of_each_other_are_rounded_to_the_nearest() -> None:
    weight, power = torch.randn(6, 30), torch.rand(30).double() + 0.1
    for bits in BITS:
        found = quantize_calibrated(weight, Statistics(power.diag()), bits)
        scale = search_scale(weight, power, bits)
        top = 2 ** (bits - 1) - 1
        assert torch.equal(integers(found, 30).float(), (weight / scale[:, None]).round().clamp(-top - 1, top))


@pytest.mark.parametrize("bits", BITS)
def test_the_output_is_better_than_plain_rounding(bits: int) -> None:
    for seed in range(4):
        x = inputs(400, 64, seed)
        hessian, weight = x.mT @ x, torch.randn(20, 64)
        plain = quantize_rtn(weight, bits, True)
        nearest = dequantize(ops.unpack(plain.packed, 64), plain.scale).double()
        found = quantize_calibrated(weight, Statistics(hessian), bits)
        ours, theirs = ((x @ (each - weight).mT).square().sum() for each in (restored(found, 64), nearest))
        assert ours < theirs
        expected = (ours / (x @ weight.double().mT).square().sum()).sqrt()
        assert found.output_error == pytest.approx(expected.item(), rel=1e-5)


def test_the_scale_is_the_least_squares_one() -> None:
    x = inputs(400, 32)
    hessian, weight = x.mT @ x, torch.randn(5, 32)
    found = quantize_calibrated(weight, Statistics(hessian), 4)
    for row, (q, s) in enumerate(zip(integers(found, 32).double(), found.quantized.scale.double(), strict=True)):
        fitted = torch.linalg.lstsq((x @ q)[:, None], (x @ weight[row].double())[:, None]).solution
        torch.testing.assert_close(s, fitted[0, 0], rtol=1e-6, atol=0)


def test_no_integers_are_far_better() -> None:
    """All 4^5 vectors of 2 bits at the same scale: the sweep is a heuristic, but near the best of them."""
    every = torch.tensor(list(product(range(-2, 2), repeat=5)), dtype=torch.float64)
    ratios = []
    for seed in range(12):
        x = inputs(60, 5, seed)
        hessian, weight = x.mT @ x, torch.randn(1, 5, generator=torch.Generator().manual_seed(seed)).double()
        scale = search_scale(weight, hessian.diagonal(), 2).double()
        order = hessian.diagonal().argsort(descending=True, stable=True)
        factor = factorize(hessian[order][:, order], 1e-9)
        swept = sweep(weight.mT[order], factor.upper, scale, 2)[order.argsort()].mT
        costs = ((every * scale - weight) @ x.mT).square().sum(1)
        cost = ((swept * scale - weight) @ x.mT).square().sum()
        assert cost >= costs.min() * (1 - 1e-12)
        ratios.append(float(cost / costs.min()))
    assert sorted(ratios)[6] < 2


@pytest.mark.parametrize("with_residual", [False, True])
def test_qronos_is_the_papers(with_residual: bool) -> None:
    """First input: the best while the others stay. Rest: least squares for X w, given it. Then GPTQ; here all dense."""
    floats = inputs(300, 24, 3)
    counts = floats + 0.3 * torch.randn(300, 24, dtype=torch.float64) * floats.std(0)
    weight = torch.randn(6, 24, dtype=torch.float64)
    residual = torch.randn(300, 6, dtype=torch.float64) if with_residual else None
    wanted = floats @ weight.mT + (0 if residual is None else residual)
    found = quantize_calibrated(weight, observed(counts, floats, residual), 4, "qronos", damping=1e-9)

    best = torch.linalg.lstsq(counts, wanted).solution.mT
    scale = search_scale(best, counts.square().sum(0), 4).double()
    i = int(counts.square().sum(0).argmax())
    others = [j for j in range(24) if j != i]
    left = wanted - counts[:, others] @ weight[:, others].mT
    first = (counts[:, i] @ left) / counts[:, i].square().sum()
    expected = textbook_gptq(best, counts.mT @ counts, scale, 4, 1e-9, first)
    assert torch.equal(integers(found, 24).double(), expected)
    assert (first / scale).round().ne((best[:, i] / scale).round()).any()  # the first step is not the sweep's own
    error = (counts @ restored(found, 24).mT - wanted).square().sum()
    blind = quantize_calibrated(weight, Statistics(counts.mT @ counts), 4)
    assert error < (counts @ restored(blind, 24).mT - wanted).square().sum()


def test_gptaq_is_the_papers() -> None:
    """The update of equation 13's decomposition, densely: w_j's own ΔX_j is made up for by the inputs after it."""
    floats = inputs(200, 20, 5)
    counts = floats + 0.3 * torch.randn(200, 20, dtype=torch.float64) * floats.std(0)
    hessian = counts.mT @ counts
    hessian += 0.1 * hessian.diagonal().mean() * torch.eye(20, dtype=torch.float64)
    found = asymmetry(counts.mT @ (floats - counts), factorize(hessian, 0.0).upper, alpha=1.0)
    for j in range(19):
        left = list(range(j + 1, 20))
        moment = counts[:, left].mT @ (floats - counts)[:, j]
        torch.testing.assert_close(found[j, left], torch.linalg.solve(hessian[left][:, left], moment))
    assert not found.tril().any()


def test_gptaq_and_residuals_lower_the_error_they_are_for() -> None:
    floats = inputs(600, 48, 7)
    counts = floats + 0.4 * torch.randn(600, 48, dtype=torch.float64) * floats.std(0) - 0.2 * floats.flip(1)
    weight = torch.randn(16, 48, dtype=torch.float64)
    residual = counts @ torch.randn(48, 16, dtype=torch.float64) * 0.1
    errors = {}
    for name, sums in (("without", observed(counts, floats)), ("with", observed(counts, floats, residual))):
        for method in ("gptq", "gptaq", "qronos"):
            q = restored(quantize_calibrated(weight, sums, 6, method, damping=0.01), 48)
            wanted = floats @ weight.mT + (residual if name == "with" else 0)
            errors[name, method] = float((counts @ q.mT - wanted).norm() / wanted.norm())
    assert errors["without", "qronos"] < errors["without", "gptaq"] < errors["without", "gptq"]
    blind = restored(quantize_calibrated(weight, Statistics(counts.mT @ counts), 6), 48)
    bound = float((counts @ blind.mT - floats @ weight.mT - residual).norm() / (floats @ weight.mT + residual).norm())
    assert all(errors["with", method] < bound for method in ("gptq", "gptaq", "qronos"))


def test_the_bias_brings_the_mean_back() -> None:
    floats = inputs(300, 32, 2) + 5
    counts = floats + torch.randn(300, 32, dtype=torch.float64) + 1
    weight, residual = torch.randn(7, 32), torch.randn(300, 7, dtype=torch.float64) + 2
    for method, rest in product(("gptq", "gptaq", "qronos"), (None, residual)):
        found = quantize_calibrated(weight, observed(counts, floats, rest), 4, method, with_bias=True)
        assert found.bias is not None and found.bias.dtype == torch.float32
        wanted = (floats @ weight.double().mT + (0 if rest is None else rest)).mean(0)
        given = (counts @ restored(found, 32).mT).mean(0) + found.bias
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_a_hessian_that_is_none_is_damped_until_it_is_one() -> None:
    hessian = inputs(9, 30, 1).mT @ inputs(9, 30, 1)  # of 9 tokens: rank 9
    weight = torch.randn(4, 30)
    assert quantize_calibrated(weight, Statistics(hessian), 4, damping=0.1).damping == 0.1
    indefinite = hessian - 0.2 * hessian.diagonal().mean() * torch.eye(30)
    found = quantize_calibrated(weight, Statistics(indefinite), 4, damping=0.1)
    assert found.damping == pytest.approx(0.3)
    none = quantize_calibrated(weight, Statistics(torch.zeros(30, 30)), 4, damping=0.0)
    assert none.damping > 0 and none.quantized.relative_error < 0.2 and none.output_error == 0
    for bad in (float("nan"), float("inf")):
        with pytest.raises(SpikeconvError, match="not finite"):
            quantize_calibrated(weight, Statistics(torch.full((30, 30), bad)), 4)
        with pytest.raises(SpikeconvError, match="damaged"):
            quantize_calibrated(torch.full((4, 30), bad), Statistics(hessian), 4)


def test_silent_inputs_and_empty_rows() -> None:
    x = inputs(200, 30, 4)
    x[:, ::3] = 0
    weight = torch.randn(5, 30)
    weight[2] = 0
    sums = observed(x, x + 0.1 * torch.randn_like(x))
    for bits, method in product(BITS, ("gptq", "gptaq")):
        found = quantize_calibrated(weight, sums, bits, method)
        q, s = integers(found, 30), found.quantized.scale
        assert not q[2].any() and s[2] == 1 and (s > 0).all() and s.isfinite().all()
        top = 2 ** (bits - 1)
        assert q.min() >= -top and q.max() <= top - 1
        assert torch.equal(found.quantized.sum, q.sum(1, dtype=torch.int32))
        error = (restored(found, 30) - weight).norm() / weight.double().norm()
        assert found.quantized.relative_error == pytest.approx(error.item(), rel=1e-6)
    silent = integers(quantize_calibrated(weight, sums, 8), 30)[:, ::3].float()
    scale = search_scale(weight, sums.hessian.diagonal(), 8)
    assert torch.equal(silent, (weight[:, ::3] / scale[:, None]).round().clamp(-128, 127))


def test_the_same_numbers_give_the_same_bits() -> None:
    floats = inputs(300, 140, 6)
    counts = (floats * 2).round() / 2
    weight = torch.randn(11, 140)
    for method in ("gptq", "gptaq", "qronos"):
        a, b = (quantize_calibrated(weight, observed(counts, floats), 4, method) for _ in range(2))
        assert torch.equal(a.quantized.packed, b.quantized.packed) and torch.equal(a.quantized.scale, b.quantized.scale)
