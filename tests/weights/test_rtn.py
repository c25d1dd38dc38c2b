"""Round-to-nearest against QuaRot's search, written out plainly: the full grid in float64, no early end."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.errors import SpikeconvError
from spikeconv.ops import native, rtn
from spikeconv.weights import dequantize, quantize_rtn

BACKENDS = ["reference", *native.cpu_kernels()]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every test runs on the reference and on each instruction set."""
    if request.param == "reference":
        monkeypatch.setattr(ops, "quantize_rtn", rtn.quantize_rtn)
        yield request.param
        return
    yield native.use_cpu_kernels(request.param)
    native.use_cpu_kernels("auto")


def rounded(weight: Tensor, bits: int, search: bool) -> tuple[Tensor, Tensor]:
    """Integers [out, in] and scales."""
    quantized = quantize_rtn(weight, bits, search)
    return ops.unpack(quantized.packed, weight.shape[1]), quantized.scale


BITS = (2, 3, 4, 6, 8)
DISTRIBUTIONS: dict[str, Callable[[int, int], Tensor]] = {
    "gaussian": lambda rows, columns: torch.randn(rows, columns),
    "laplace": lambda rows, columns: torch.distributions.Laplace(0, 1).sample((rows, columns)),
    "heavy": lambda rows, columns: torch.distributions.StudentT(2.0).sample((rows, columns)),
    "one outlier": lambda rows, columns: torch.randn(rows, columns).index_fill_(1, torch.tensor([0]), 40.0),
    "uniform": lambda rows, columns: torch.rand(rows, columns) - 0.5,
    "tiny": lambda rows, columns: torch.randn(rows, columns) * 1e-20,
    "sparse": lambda rows, columns: torch.randn(rows, columns) * (torch.rand(rows, columns) < 0.1),
}


def grid_errors(row: Tensor, top: int) -> Tensor:
    """Σ|err|^2.4 at p = 1 - i/100, i < 80 (QuaRot, `find_params` with maxshrink 0.8, grid 100, norm 2.4)."""
    w = row.double()
    errors = []
    for i in range(80):
        scale = (1 - i / 100) * w.abs().max() / top
        q = torch.clamp(torch.round(w / scale), -top - 1, top) * scale
        errors.append((q - w).abs().pow(2.4).sum())
    return torch.stack(errors)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_searched_scale_is_the_best_on_the_grid(distribution: str) -> None:
    for bits, shape in product(BITS, ((9, 35), (5, 700))):
        weight = DISTRIBUTIONS[distribution](*shape)
        top = 2 ** (bits - 1) - 1
        _, scale = rounded(weight, bits, search=True)
        for row, s in zip(weight, scale.double(), strict=True):
            if not row.any():
                continue
            index = (1 - s * top / row.abs().max()) * 100
            assert abs(index - index.round()) < 1e-3 and 0 <= round(index.item()) < 80
            errors = grid_errors(row, top)
            # The same p, unless float32 cannot tell two apart.
            assert errors[round(index.item())] <= errors.min() * (1 + 1e-5), (bits, shape)


def test_rows_do_not_see_each_other() -> None:
    """Neither the chunks nor the early end of the search may change a row's scale."""
    for rows in (1, 3, 1000):
        weight = torch.distributions.StudentT(2.0).sample((rows, 601))
        values, scale = rounded(weight, 4, search=True)
        for i in {0, rows // 2, rows - 1}:
            alone = rounded(weight[i : i + 1], 4, search=True)
            assert torch.equal(alone[0][0], values[i]) and torch.equal(alone[1][0], scale[i])


def test_values_are_rounded_weights(device: torch.device) -> None:
    for bits, search, dtype in product(BITS, (True, False), (torch.float32, torch.bfloat16, torch.float16)):
        weight = torch.randn(17, 65, device=device, dtype=dtype)
        values, scale = rounded(weight, bits, search)
        top = 2 ** (bits - 1) - 1
        assert values.dtype == torch.int8 and scale.dtype == torch.float32 and scale.shape == (17,)
        expected = torch.clamp(torch.round(weight.float() / scale[:, None]), -top - 1, top)
        assert torch.equal(values.float(), expected)


def test_min_max() -> None:
    for bits in BITS:
        weight = torch.randn(17, 65)
        values, scale = rounded(weight, bits, search=False)
        top = 2 ** (bits - 1) - 1
        assert torch.equal(scale, weight.abs().amax(1) / top)
        assert (values.abs().amax(1) == top).all()
        assert ((dequantize(values, scale) - weight).abs() <= scale[:, None] * 0.50001).all()


def test_all_zero_row() -> None:
    for search in (True, False):
        weight = torch.randn(3, 40)
        weight[1] = 0
        values, scale = rounded(weight, 4, search)
        assert not values[1].any() and scale[1] == 1
        others = rounded(weight[::2], 4, search)
        assert torch.equal(values[::2], others[0]) and torch.equal(scale[::2], others[1])


def test_search_lowers_the_error_it_minimises() -> None:
    weight = torch.randn(8, 512)
    costs = [(dequantize(*rounded(weight, 4, search)) - weight).abs().pow(2.4).sum(1) for search in (True, False)]
    assert (costs[0] < costs[1]).all()


def test_sums_and_error_are_those_of_the_integers() -> None:
    for bits, columns, size in product(BITS, (1, 7, 8, 61), (1.0, 1e30, 1e-30)):
        weight = torch.randn(5, columns) * size
        quantized = quantize_rtn(weight, bits, True)
        values = ops.unpack(quantized.packed, columns)
        assert torch.equal(quantized.packed, ops.pack(values, bits))  # the padding is zero
        assert torch.equal(quantized.sum, values.sum(1, dtype=torch.int32))
        error = (dequantize(values, quantized.scale).double() - weight.double()).norm() / weight.double().norm()
        assert quantized.relative_error == pytest.approx(error.item(), rel=1e-5, abs=1e-7), (bits, columns, size)


def test_what_no_float32_holds_is_refused() -> None:
    """A weight that is not a number, or whose rounded value would not be one, has no scale."""
    for bad, search in product((float("nan"), float("inf"), -3.4e38), (True, False)):
        weight = torch.randn(4, 33)
        weight[2, 5] = bad
        for bits in (2, 4, 8):
            with pytest.raises(SpikeconvError, match="Row 2 of a weight holds"):
                quantize_rtn(weight, bits, search)
    weight = torch.full((2, 33), 1e38)
    assert quantize_rtn(weight, 4, True).scale.isfinite().all()


def test_error_of_nothing_is_nothing() -> None:
    assert quantize_rtn(torch.zeros(2, 9), 4, True).relative_error == 0
