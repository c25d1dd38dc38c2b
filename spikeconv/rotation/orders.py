"""Hadamard matrices of the orders that hidden sizes need: H ∈ {−1, 1}^(m×m) with H·Hᵀ = m·I.

Sylvester doubles, H(2m) = [[1, 1], [1, −1]] ⊗ H(m). Paley (1933) takes Q[a, b] = χ(a − b), χ the quadratic
character of GF(q): H(q+1) = I + [[0, 1], [−1, Q]] for q ≡ 3 mod 4, and for q ≡ 1 mod 4
H(2(q+1)) = [[0, 1], [1, Q]] ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]]. Williamson (1944) sets four
symmetric circulants with A² + B² + C² + D² = 4n·I in the pattern of a quaternion: H(4n). As in QuaRot
(Ashkboos et al. 2024, Hadamard transforms of size m·2^k), a size is a Kronecker product of such orders.
"""

from functools import cache, lru_cache
from itertools import product
from math import prod

import torch

from spikeconv.errors import SpikeconvError

__all__ = ["base_orders", "factorize", "hadamard_matrix", "largest_order"]

LARGEST_BASE = 1024
# A dense factor costs its order in additions an element: above this, several small ones cost less.
LARGEST_DENSE = 512

# First rows of A, B, C, D for order 4n: bit j is the sign (1: +) at distances j and n − j. Found by meeting
# in the middle on their autocorrelations, which sum to zero off the peak: for n = 23 and 29 over all
# symmetric rows, for n = 43 over rows unchanged by j → 37j, for n = 39 with A unchanged by j → 16j and
# C, D = B at 16j, 16²j.
WILLIAMSON = {
    92: (0x96B, 0x519, 0x47D, 0x7F1),
    116: (0x3695, 0x2785, 0x519F, 0x3F71),
    156: (0x86D11, 0x5973, 0xA8791, 0xD4C0D),
    172: (0x18DA15, 0x3C8ADB, 0x135EC7, 0x8F1F7),
}


@cache
def base_orders() -> tuple[int, ...]:
    """Orders m ≤ 1024, ascending, that Paley or Williamson give; powers of two are left to Sylvester."""
    orders = (m for m in range(4, LARGEST_BASE + 1, 4) if m & (m - 1))
    return tuple(m for m in orders if m in WILLIAMSON or _paley_field(m))


@lru_cache
def hadamard_matrix(m: int) -> torch.Tensor:
    """Hadamard matrix of order m, int8 of shape (m, m); m is a power of two or one of `base_orders()`.

    The tensor is cached and shared: copy it before writing to it.
    """
    if m == 1:
        return torch.ones(1, 1, dtype=torch.int8)
    if m > 1 and not m & (m - 1):
        return torch.kron(torch.tensor([[1, 1], [1, -1]], dtype=torch.int8), hadamard_matrix(m // 2))
    if m not in base_orders():
        raise SpikeconvError(
            f"Hadamard matrix of order {m}: no construction is known here; expected a power of two or one of "
            "spikeconv.rotation.orders.base_orders(); use factorize() or largest_order() to split the size."
        )
    return _williamson(m) if m in WILLIAMSON else _paley(m, _paley_field(m))


@cache
def factorize(n: int) -> tuple[int, ...] | None:
    """Orders with a known Hadamard matrix whose product is n: base orders ascending, then one power of two.

    A power of two needs no base order; else the smallest single one up to 512 is taken, else the product with
    the smallest sum (29568 = 12·28·44·2), else one above 512. n = 1 gives the empty tuple; None: no product
    is known (13696 = 428·32).
    """
    _check_size(n)
    # One order for each odd part suffices: the power of two makes up for the rest.
    smallest = {m // (m & -m): m for m in reversed(base_orders())}
    splits = _splits(n, tuple(sorted(m for m in smallest.values() if n % m == 0)))
    best = min(splits, key=lambda s: (max(s, default=0) > LARGEST_DENSE, len(s) > 1, sum(s)), default=None)
    if best is None:
        return None
    power = n // prod(best)
    return best if power == 1 else (*best, power)


def largest_order(n: int) -> int:
    """Largest divisor of n that factorizes, at least 1: the block of a block-diagonal rotation of size n."""
    _check_size(n)
    return next(n // k for k in range(1, n + 1) if n % k == 0 and factorize(n // k) is not None)


def _check_size(n: int) -> None:
    if n < 1:
        raise SpikeconvError(f"Hadamard size: found {n}, expected a positive integer; pass a layer's width.")


def _splits(n: int, orders: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All ascending tuples out of `orders` whose product is n up to a power of two."""
    if not n & (n - 1):
        return [()]
    heads = ((m, orders[i:]) for i, m in enumerate(orders) if n % m == 0)
    return [(m, *tail) for m, rest in heads for tail in _splits(n // m, rest)]


def _prime_power(q: int) -> tuple[int, int]:
    """(p, k) with p the smallest prime factor of q > 1 and q = p^k; k = 0 where q is no prime power."""
    p = next(d for d in range(2, q + 1) if q % d == 0)
    return p, next((k for k in range(1, q.bit_length()) if p**k == q), 0)


def _paley_field(m: int) -> int:
    """Size q of the field whose Paley matrix has order m, or 0; m is a multiple of four."""
    fields = (m - 1, m // 2 - 1) if m % 8 == 4 else (m - 1,)  # m = 2(q+1) with q ≡ 1 mod 4 is 4 mod 8
    return next((q for q in fields if _prime_power(q)[1]), 0)


def _jacobsthal(q: int) -> torch.Tensor:
    """Q[a, b] = χ(a − b) over GF(q), q odd: +1 on squares, −1 on the other nonzero elements, 0 on zero.

    GF(p^k) is GF(p)[x] modulo the first x^k − r(x) for which the powers of x are all q − 1 nonzero residues;
    the squares are then the even powers. For k = 1, x is a primitive root.
    """
    p, k = _prime_power(q)
    for r in product(range(p), repeat=k):
        character = {(0,) * k: 0}
        element, sign = (1,) + (0,) * (k - 1), 1
        while element not in character:
            character[element] = sign
            shifted, carry = (0, *element[:-1]), element[-1]
            element, sign = tuple((s + carry * c) % p for s, c in zip(shifted, r, strict=True)), -sign
        if len(character) == q:
            break
    elements = sorted(character)
    values = torch.tensor([character[e] for e in elements], dtype=torch.int8)
    digits = torch.tensor(elements)
    place = torch.tensor([p**i for i in reversed(range(k))])
    return values[((digits[:, None] - digits) % p) @ place]


def _paley(m: int, q: int) -> torch.Tensor:
    """Paley's first (m = q + 1) or second (m = 2(q + 1)) matrix."""
    border = torch.ones(q + 1, q + 1, dtype=torch.int8)
    border[0, 0], border[1:, 1:] = 0, _jacobsthal(q)
    identity = torch.eye(q + 1, dtype=torch.int8)
    if m == q + 1:
        border[1:, 0] = -1
        return identity + border
    signs = torch.tensor([[[1, 1], [1, -1]], [[1, -1], [-1, -1]]], dtype=torch.int8)
    return torch.kron(border, signs[0]) + torch.kron(identity, signs[1])


def _williamson(m: int) -> torch.Tensor:
    """Williamson's array of the four symmetric circulants of size n = m/4 in `WILLIAMSON`."""
    n = m // 4
    i = torch.arange(n)
    distance = (i[:, None] - i).abs()
    bits = torch.minimum(distance, n - distance)
    a, b, c, d = (((row >> bits & 1) * 2 - 1).to(torch.int8) for row in WILLIAMSON[m])
    blocks = [[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]]
    return torch.cat([torch.cat(row, 1) for row in blocks])
