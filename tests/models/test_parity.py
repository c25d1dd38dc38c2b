"""The models compute what the RWKV authors' package computes from the same `.pth` file, in float32 on the CPU."""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rwkv_files import make_model, write_pth
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.models.adopt import adopt
from spikeconv.sources.pth import PthSource

ASSETS = Path(__file__).parents[1] / "assets"
TOKENS, FIRST = 50, 20
BOUND = 1e-4
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")


@pytest.fixture(scope="module")
def authors() -> Iterator[Callable[[str, Path], Any]]:
    """`authors(version, path)`: their model. Their module asks the environment when it is imported; so, two copies."""
    copies: dict[bool, ModuleType] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKV_JIT_ON", "0")
        patch.setenv("RWKV_CUDA_ON", "0")

        def load(version: str, path: Path) -> Any:
            seven = version == "7"
            patch.setenv("RWKV_V7_ON", str(int(seven)))
            model, strategy = str(path.with_suffix("")), "cpu fp32"
            with contextlib.redirect_stdout(io.StringIO()):
                if seven not in copies:
                    name = f"rwkv_model_{version}"
                    copies[seven] = _copy("rwkv.model", name)
                    patch.setitem(sys.modules, name, copies[seven])
                module = copies[seven]
                return module.RWKV_x070(model, strategy) if seven else module.RWKV(model, strategy, verbose=False)

        yield load


def _copy(name: str, alias: str) -> ModuleType:
    found = importlib.util.find_spec(name)
    assert found and found.origin
    spec = importlib.util.spec_from_file_location(alias, found.origin)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def in_pieces(model: Any, version: str, ids: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] of ids [tokens] read in two pieces, and the second one token at a time."""
    state, read = None, []
    for piece in (ids[:FIRST], *ids[FIRST:].split(1)):
        output = model(piece[None], **{memory_keyword(model): state}, use_cache=True)
        state = memory_of(model, output)
        read.append(output.logits[0])
    return torch.cat(read)


def agrees(made: Any, version: str, ids: Tensor, authors: Callable[..., Any], path: Path) -> None:
    """Compare a model, read back from the file that the authors would have published, with their code on that file."""
    write_pth(path, made, version)
    source = PthSource(path)
    model = adopt(type(made)(type(made.config).from_dict(source.config)).eval())
    model.load_state_dict({name: source.load(name) for name in source.names()})
    theirs = authors(version, path)
    expected, _ = theirs.forward(ids.tolist(), None, full_output=True)
    assert 1 < expected.abs().max() < 100
    with torch.no_grad():
        whole = model(ids[None]).logits[0]
    torch.testing.assert_close(whole, expected, atol=BOUND, rtol=0)

    first, state = theirs.forward(ids[:FIRST].tolist(), None, full_output=True)
    second, _ = theirs.forward(ids[FIRST:].tolist(), state, full_output=True)
    torch.testing.assert_close(torch.cat((first, second)), expected, atol=BOUND, rtol=0)
    torch.testing.assert_close(in_pieces(model, version, ids), expected, atol=BOUND, rtol=0)


@pytest.mark.parametrize("version", ["4", "6", "7"])
def test_random_weights(version: str, authors: Callable[..., Any], tmp_path: Path) -> None:
    agrees(make_model(version), version, torch.randint(0, 256, (TOKENS,)), authors, tmp_path / "model.pth")


@pytest.mark.parametrize("version", ["4", "6"])
def test_trained_weights(version: str, authors: Callable[..., Any], tmp_path: Path) -> None:
    made = AutoModelForCausalLM.from_pretrained(ASSETS / f"rwkv{version}-brown").eval()
    text = (ASSETS / "brown-held-out.txt").read_bytes()[:200]
    agrees(made, version, torch.tensor(list(text)), authors, tmp_path / "model.pth")
