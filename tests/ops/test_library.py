"""The schemas keep what they promise to torch.compile and torch.export."""

import pytest
import torch

from spikeconv import ops
from spikeconv.rotation.orders import hadamard_matrix
from spikeconv.rotation.signs import random_signs


def rotate_arguments(device: torch.device, lead: tuple[int, ...]) -> tuple[object, ...]:
    factors = [hadamard_matrix(m).float().to(device) for m in (12, 4)]
    return torch.randn(*lead, 96, device=device), random_signs(96, 0).to(device), factors


@pytest.mark.parametrize("lead", [(3,), (2, 5), (0,)])
def test_rotate(lead: tuple[int, ...], device: torch.device) -> None:
    torch.library.opcheck(ops.rotate, rotate_arguments(device, lead))


def test_rotate_half_precision_input(device: torch.device) -> None:
    x, signs, factors = rotate_arguments(device, (3,))
    torch.library.opcheck(ops.rotate, (x.bfloat16(), signs, factors))


@pytest.mark.parametrize(
    ("low", "high", "symmetric"), [(-8, 7, True), (-128, 128, True), (0, 15, False), (0, 255, False)]
)
@pytest.mark.parametrize("strided", [False, True])
def test_encode_counts(low: int, high: int, symmetric: bool, strided: bool, device: torch.device) -> None:
    u = torch.randn(24, 6, device=device).mT if strided else torch.randn(6, 24, device=device)
    torch.library.opcheck(ops.encode_counts, (u, low, high, symmetric, 0.9))


@pytest.mark.parametrize("execution", ops.EXECUTIONS)
def test_accumulate(execution: str, device: torch.device) -> None:
    counts = torch.randint(-8, 8, (2, 3, 20), dtype=torch.int8, device=device)
    weight = ops.pack(torch.randint(-8, 8, (5, 20), dtype=torch.int8, device=device), 4)
    torch.library.opcheck(ops.accumulate, (counts, weight, 8, execution))
