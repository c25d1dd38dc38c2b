"""Exact integer checks: H·Hᵀ = m·I, and products of orders that give back the size."""

from math import prod

import pytest
import torch

from spikeconv.errors import SpikeconvError
from spikeconv.rotation.orders import base_orders, factorize, hadamard_matrix, largest_order

# fmt: off
REQUIRED = [
    576, 896, 960, 1536, 2048, 2560, 3072, 3584, 4096, 4864, 5120, 5632, 8192, 8960, 9728, 11008,
    13824, 14336, 17408, 18944, 25600, 27648, 28672, 29568, 53248,
]
# fmt: on
USED = {m for n in REQUIRED for m in factorize(n) or () if m & (m - 1)}
PALEY = {12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 100, 108, 124, 140, 148, 164, 180, 344}


def assert_hadamard(m: int) -> None:
    h = hadamard_matrix(m)
    assert h.shape == (m, m) and h.dtype == torch.int8
    assert (h.abs() == 1).all()
    wide = h.double()  # integers below 2^53: exact
    assert torch.equal(wide @ wide.T, m * torch.eye(m, dtype=torch.float64))


def test_base_orders_are_hadamard() -> None:
    for m in sorted({m for m in base_orders() if m <= 400} | USED):
        assert_hadamard(m)


def test_powers_of_two_are_sylvester() -> None:
    for m in (1, 2, 4, 8, 64, 1024):
        assert_hadamard(m)
        assert torch.equal(hadamard_matrix(m), hadamard_matrix(m).T)


def test_base_orders() -> None:
    orders = base_orders()
    assert orders == tuple(sorted(set(orders))) and orders[0] == 12 and orders[-1] <= 1024
    assert {*PALEY, 92, 116, 156, 172} <= set(orders)
    assert all(m % 4 == 0 and m & (m - 1) for m in orders)
    assert not {188, 236, 428, 668} & set(orders)


def test_required_sizes() -> None:
    for n in REQUIRED:
        orders = factorize(n)
        assert orders is not None and prod(orders) == n
        base = [m for m in orders if m & (m - 1)]
        power = [m for m in orders if not m & (m - 1)]
        assert list(orders) == sorted(base) + power and len(power) <= 1
        assert set(base) <= set(base_orders()) and max(base, default=0) <= 344
        assert largest_order(n) == n


def test_factorize_prefers() -> None:
    preferred: dict[int, tuple[int, ...]] = {
        1: (),
        2: (2,),
        4096: (4096,),
        12: (12,),
        576: (36, 16),  # one base order before two
        11008: (172, 64),  # the smallest one: not 344·32
        29568: (12, 28, 44, 2),  # not 924·32: too large to be applied densely
    }
    for n, orders in preferred.items():
        assert factorize(n) == orders


def test_no_known_product() -> None:
    for n, largest in {13696: 128, 3: 1, 6: 2, 45: 1, 90: 2, 12 * 107: 12}.items():
        assert factorize(n) is None
        assert largest_order(n) == largest


def test_unknown_order_is_an_error() -> None:
    for m in (-4, 0, 3, 6, 14, 428, 668, 1204):
        with pytest.raises(SpikeconvError, match=f"order {m}"):
            hadamard_matrix(m)


def test_size_must_be_positive() -> None:
    for n in (0, -8):
        for function in (factorize, largest_order):
            with pytest.raises(SpikeconvError, match="positive"):
                function(n)
