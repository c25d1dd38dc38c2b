"""The schemas keep what they promise to torch.compile and torch.export."""

from typing import Any

import pytest
import torch
from samples import linears_arguments, random_counts, random_weight, to

from spikeconv import ops
from spikeconv.rotation import Rotation


@pytest.mark.parametrize("lead", [(3,), (2, 5), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotate(lead: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(*lead, 96, device=device, dtype=dtype)
    torch.library.opcheck(ops.rotate, (x, *Rotation(96, 0).on(device)))


@pytest.mark.parametrize(
    ("low", "high", "symmetric"), [(-8, 7, True), (-128, 128, True), (0, 15, False), (0, 255, False)]
)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_encode(low: int, high: int, symmetric: bool, strided: bool, norm: bool, device: torch.device) -> None:
    x = torch.randn(24, 6, device=device).mT if strided else torch.randn(6, 24, device=device)
    gamma = torch.rand(24, device=device) if norm else None
    limits = (low, high, symmetric, 0.9, "relu", 0.1, norm)
    torch.library.opcheck(ops.encode, (x, *Rotation(24, 0).on(device), gamma, 1e-5, *limits))


@pytest.mark.parametrize("layout", ["tiles", "columns"])
@pytest.mark.parametrize("bits", [4, 6])
def test_arrange(layout: str, bits: int, device: torch.device) -> None:
    torch.library.opcheck(ops.arrange, (ops.pack(random_weight(21, 30, bits), bits).to(device), 30, layout))


@pytest.mark.parametrize("execution", ops.EXECUTIONS)
def test_accumulate(execution: str, device: torch.device) -> None:
    weight = ops.pack(random_weight(5, 20, 4), 4).to(device)
    torch.library.opcheck(ops.accumulate, (random_counts((2, 3, 20), -8, 7).to(device), weight, 5, 4, 8, execution))


@pytest.mark.parametrize("zero", [False, True])
def test_linears(zero: bool, device: torch.device) -> None:
    given: Any = to(linears_arguments((20, 12), 3, 4, zero, torch.float32), device)
    torch.library.opcheck(ops.linears, (*given, torch.bfloat16, "auto"))


@pytest.mark.parametrize("search", [False, True])
def test_quantize_rtn(search: bool, device: torch.device) -> None:
    torch.library.opcheck(ops.quantize_rtn, (torch.randn(3, 20, device=device), 4, search))
