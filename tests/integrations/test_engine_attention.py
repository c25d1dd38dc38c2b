"""Attention of prompts over floats: what every set of kernels makes of it, at the head sizes of real models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import CLOSE, FINE, close, load, long_way
from tiny_models import save_model
from torch import Tensor

import spikeconv
from spikeconv.engine import Engine, Sequence
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")

HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512}


@pytest.fixture(params=[32, 64, 40])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """With a window, so that queries see neither all that is before them nor all of a tile."""
    size = {"head_dim": request.param, "sliding_window": 100}
    save_model("mistral", {**HEADS, **size}, tmp_path / "float")
    spikeconv.convert(str(tmp_path / "float"), tmp_path / "spiking", **FINE)
    return load(tmp_path / "spiking")


@pytest.fixture
def each_kernel_set() -> Iterator[Iterator[str]]:
    yield (use_cpu_kernels(name) for name in cpu_kernels())
    use_cpu_kernels("auto")


def in_pieces(engine: Engine, ids: Tensor, pieces: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Logits of a text that is read piece by piece, from the fifth place of a cache on."""
    cache, logits, at = engine.cache(1, len(ids) + 5, dtype), [], 0
    for piece in ids.split(pieces):
        sequence = Sequence(len(piece), at=at + 5, first=5, position=at)
        logits.append(engine.forward(piece, [sequence], cache, torch.arange(len(piece)), logits=True))
        at += len(piece)
    return torch.cat(logits)


def test_every_kernel_set_attends_as_the_modules_do(model: Any, each_kernel_set: Iterator[str]) -> None:
    """Most logits to the accuracy of float32, the others as near as a count that moved allows."""
    ids = torch.randint(0, 50, (236,))
    with torch.inference_mode():
        expected = long_way(model)(ids[None]).logits[0]
    engine = Engine(model, 512)
    for name in each_kernel_set:
        for pieces in ((236,), (150, 86), (17, 40, 179)):
            found = in_pieces(engine, ids, pieces, torch.float32)
            assert close(found, expected), (name, pieces)
            apart = (found - expected).abs().amax(1) / expected.abs().max()
            assert apart.median() <= 1e-6, (name, pieces, apart.median())
        rounded = in_pieces(engine, ids, (236,), torch.bfloat16)
        assert (rounded - expected).abs().max() <= 3 * CLOSE * expected.abs().max(), name
        assert (rounded - expected).abs().mean() <= CLOSE / 4 * expected.abs().max(), name
