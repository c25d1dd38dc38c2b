"""Every test of an op runs on the reference and on every native back end that this machine has."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spikeconv import ops
from spikeconv.ops.library import SCHEMAS
from spikeconv.ops.native import cpu_kernels, load, use_cpu_kernels

BACKENDS = ["reference", *cpu_kernels()]
if torch.cuda.is_available():
    BACKENDS += ["reference-cuda", *(["cuda"] if load("cuda").is_native else [])]


@pytest.fixture(params=BACKENDS)
def kernels(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The ops by name, and the `device` that they run on."""
    name = request.param
    if name.startswith("reference"):
        functions = {op: reference for op, (_, reference) in SCHEMAS.items()}
    else:
        functions = {op: getattr(ops, op) for op in SCHEMAS}
        if name != "cuda":
            use_cpu_kernels(name)
    yield SimpleNamespace(name=name, device=torch.device("cuda" if "cuda" in name else "cpu"), **functions)
    if name in cpu_kernels():
        use_cpu_kernels("auto")


@pytest.fixture
def threads() -> Iterator[Iterator[int]]:
    """Numbers of threads, set for torch, and so for the kernels, one after the other."""
    before = torch.get_num_threads()
    yield (torch.set_num_threads(number) or number for number in (1, 2, 3, 8))  # type: ignore[func-returns-value]
    torch.set_num_threads(before)
