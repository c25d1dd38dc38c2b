from collections.abc import Callable, Iterator

import pytest
import torch

from spikeconv.integrations import engine, engine_recurrent
from spikeconv.ops.native import use_cpu_kernels


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every forward that the engine does."""
    calls: list[int] = []
    for module in (engine, engine_recurrent):
        run = module.run_texts
        monkeypatch.setattr(module, "run_texts", lambda *arguments, run=run: calls.append(1) or run(*arguments))
    return calls


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    use_cpu_kernels("auto")
