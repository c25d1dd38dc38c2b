"""The schemas keep what they promise to torch.compile and torch.export."""

from itertools import product
from typing import Any

import pytest
import torch
from samples import linears_arguments, random_counts, random_weight, to

from spikeconv import ops
from spikeconv.codes import UNARY
from spikeconv.errors import SpikeconvError
from spikeconv.rotation import Rotation


def test_rotate(device: torch.device) -> None:
    for lead, dtype in product(((3,), (2, 5), (0,)), (torch.float32, torch.bfloat16)):
        x = torch.randn(*lead, 96, device=device, dtype=dtype)
        torch.library.opcheck(ops.rotate, (x, Rotation(96, 0).on(device)))


@pytest.mark.parametrize(
    ("low", "high", "symmetric"), [(-8, 7, True), (-128, 128, True), (0, 15, False), (0, 255, False)]
)
def test_encode(low: int, high: int, symmetric: bool, device: torch.device) -> None:
    for strided, norm in product((False, True), repeat=2):
        x = torch.randn(24, 6, device=device).mT if strided else torch.randn(6, 24, device=device)
        gamma = torch.rand(24, device=device) if norm else None
        threshold, table = torch.full((1,), 0.1, device=device), ops.EncodeSettings(low, high, symmetric, 0.9, "relu")
        rotation = Rotation(24, 0).on(device) if norm else []
        torch.library.opcheck(ops.encode, (x, rotation, gamma, threshold, table.table(), norm))


def test_encode_rows(device: torch.device) -> None:
    for symmetric, histogram in product((False, True), repeat=2):
        x, table = torch.randn(2, 5, 24, device=device), ops.RowSettings(4, 12, symmetric, (1.0, 0.9)).table()
        torch.library.opcheck(ops.encode_rows, (x, Rotation(24, 0).on(device), table, histogram))


def test_arrange(device: torch.device) -> None:
    for layout, bits in product(("tiles", "columns"), (4, 6)):
        torch.library.opcheck(ops.arrange, (ops.pack(random_weight(21, 30, bits), bits).to(device), 30, layout))


def test_accumulate(device: torch.device) -> None:
    weight, counts = ops.pack(random_weight(5, 20, 4), 4).to(device), random_counts((2, 3, 20), -8, 7).to(device)
    for execution in ops.EXECUTIONS:
        digits = UNARY.digits(8).to(device) if execution == "unfold" else None
        torch.library.opcheck(ops.accumulate, (counts, weight, digits, 5, ops.ProductSettings(4, 8, execution).table()))


@pytest.mark.parametrize("zero", [False, True])
def test_linears(zero: bool, device: torch.device) -> None:
    given: Any = to(linears_arguments((20, 12), 3, 4, zero, torch.float32), device)
    torch.library.opcheck(ops.linears, (*given, ops.ProductSettings(4, 15).table(), torch.bfloat16))


@pytest.mark.parametrize("search", [False, True])
def test_quantize_rtn(search: bool, device: torch.device) -> None:
    torch.library.opcheck(ops.quantize_rtn, (torch.randn(3, 20, device=device), 4, search))


def test_a_tensor_without_values_gives_no_numbers() -> None:
    """torch would fill the outputs with whatever lies in memory."""
    x, table = torch.randn(2, 24), ops.EncodeSettings(-8, 7, True, 0.9).table()
    with pytest.raises(SpikeconvError, match="meta device"):
        ops.encode(x, [], torch.ones(24, device="meta"), None, table, False)
    assert ops.encode(x.to("meta"), [], None, None, table, False)[0].is_meta
