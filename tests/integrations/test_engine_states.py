"""The states of recurrent models between the engine and the modules."""

import copy
import pickle
from typing import Any

import pytest
import torch
from engine_runs import FINE, Converted, close, load, long_way, step_by_step
from torch import Tensor

from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.integrations.engine import modules_only
from spikeconv.ops.native import load as load_kernels

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")


def in_turns(model: Any, runs: list[int], is_one: bool) -> tuple[Tensor, Any]:
    """Texts that engine and modules read by themselves, and piece by piece in turns, from each other's state, which
    stays one object if it `is_one`: their tokens, and the state behind them."""
    plain = long_way(model)
    ids = torch.randint(0, 256, (3, 40))
    for one, other in zip(*(step_by_step(each, ids, 4) for each in (model, plain)), strict=True):
        assert close(one, other)
    assert len(runs) == 5
    with torch.inference_mode():
        expected = plain(ids, use_cache=True).logits
        state, logits = None, []
        for turn, piece in enumerate(ids.split(5, 1)):
            out = (plain if turn % 2 else model)(piece, state=state, use_cache=True)
            assert state is None or (out.state is state) == is_one
            state = out.state
            logits.append(out.logits)
        assert close(torch.cat(logits, 1), expected)
    return ids, state


def test_a_state_goes_back_and_forth(converted: Converted, runs: list[int]) -> None:
    """Between engine and modules, which go on with each other's; what the engine made it reads where it lies."""
    model = load(converted("rwkv", **FINE))
    ids, state = in_turns(model, runs, is_one=True)
    with torch.inference_mode():
        logits = []
        before = [part.data_ptr() for part in state]
        copied = [part.clone() for part in state]
        for given in (state, copied, tuple(part.clone() for part in state), [part.contiguous() for part in state]):
            logits.append(model(ids[:, :2], state=given, use_cache=False).logits)
            assert torch.equal(logits[-1], logits[0])
        assert [part.data_ptr() for part in state] == before and all(map(torch.equal, state, copied))
        assert model(ids, use_cache=False).state is None
        doubles = [part.double() for part in state]
        with pytest.warns(SpikeconvWarning, match="a state that is not float32 tensors"):
            after = model(ids[:, :2], state=doubles).logits
        assert close(after, model(ids[:, :2], state=state).logits)
    runs.clear()
    with torch.no_grad():
        with modules_only(model):
            alone = model(ids).logits
        plain_call = model(ids).logits
        assert (plain_call - alone).abs().max() <= 1e-5 * alone.abs().max() and not runs
        assert close(model(ids, use_cache=True).logits, alone) and len(runs) == 1


def test_a_state_by_layer_is_never_changed(converted: Converted, runs: list[int]) -> None:
    """RWKV-6's: engine and modules go on with each other's, from one place as often as one likes."""
    model = load(converted("rwkv6", **FINE))
    ids, _ = in_turns(model, runs, is_one=False)
    with torch.inference_mode():
        state = model(ids, use_cache=True).state
        before = copy.deepcopy(state)
        others = [state[0]._replace(wkv=state[0].wkv * 0), *state[1:]]
        more = [
            model(ids[:, :2], state=given, use_cache=True).logits
            for given in (state, before, list(state), tuple(state), pickle.loads(pickle.dumps(state)), others)
        ]
        assert all(torch.equal(each, more[0]) for each in more[:5]) and not close(more[5], more[0])
        state[0] = others[0]
        assert torch.equal(model(ids[:, :2], state=state).logits, more[5])
        for layer, was in zip(state[1:], before[1:], strict=True):
            assert all(map(torch.equal, layer, was))
        assert model(ids, use_cache=False).state is None and model(ids, state=state, use_cache=False).state is None
        halves = [layer._replace(wkv=layer.wkv.double()) for layer in state]
        with pytest.warns(SpikeconvWarning, match="a state that is not float32 tensors"):
            assert close(model(ids[:, :2], state=halves).logits, more[5])
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
        with pytest.raises(SpikeconvError, match="padded on the left"):
            model(ids, attention_mask=mask)
