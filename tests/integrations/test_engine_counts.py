"""The engine over keys and values that are counts: the rows of the modules, and the bits of their attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_runs import COUNTED, FINE, Converted, close, load, long_way, step_by_step
from torch import Tensor

from spikeconv.engine import Engine, Sequence, decoder_of, windows_of
from spikeconv.integrations import engine as integration
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.nn import attention_codes, set_execution
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels
from spikeconv.verification.engine import attention_states, compare_engine
from spikeconv.verification.result import VerifyResult

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")


def test_counts_as_keys_and_values(transformer: str, converted: Converted, threads: Callable[[int], None]) -> None:
    """Rows in the cache byte by byte, and attention over them to the bit, as the modules' own kernels have them."""
    ids = torch.randint(0, 50, (1, 61))
    for counted in COUNTED:
        model = load(converted(transformer, bits="4-1.58", **counted))
        for kernels in cpu_kernels():
            use_cpu_kernels(kernels)
            found = []
            for number in (1, 2):
                threads(number)
                result = VerifyResult()
                compare_engine(model, ids, result)
                assert not result.different_in_engine and 0 < (result.engine_error or 0) < 5e-6
                found.append(decode_after_many(model, kept=1100, first=37))
            assert torch.equal(*found)


def decode_after_many(model: Any, kept: int, first: int) -> Tensor:
    """Logits of one token behind many random keys, whose attention must be that of the modules' kernels."""
    torch.manual_seed(3)
    engine, token = Engine(model, 2048), torch.tensor([7])
    cache, code = engine.cache(2, kept + 1), engine.codes[0]
    for states, kind in ((cache.keys, "k"), (cache.values, "v")):
        states.copy_(code.rows(torch.randn(*states.shape[:-1], engine.head_dim), kind))  # type: ignore[arg-type]
    sequence = Sequence(1, slot=1, at=kept, first=first, position=kept)
    logits = engine.forward(token, [sequence], cache, torch.tensor([0]), logits=True)
    trace = next(engine.layer_by_layer(token, [sequence], cache))
    layer = decoder_of(model).layers[0]
    angles = model.model.rotary_emb(torch.empty(0), torch.tensor([[kept]]))
    states = attention_states(layer, {name: trace[name] for name in "qkv"}, angles, engine.head_dim)
    window = windows_of(model.config, engine.layers)[0] or kept + 1
    keys, values = (held[0, 1:, :, first:] for held in (cache.keys, cache.values))
    mask = torch.zeros(kept + 1 - first)
    mask[: max(0, len(mask) - window)] = torch.finfo(torch.float32).min
    expected = code.attend(states[0], keys, values, mask, layer.attention.scaling)
    assert torch.equal(trace["attended"][0], expected.flatten())
    assert torch.equal(keys[:, :, -1:], code.rows(states[1], "k"))
    return logits


def test_counts_through_any_cache(transformer: str, converted: Converted, runs: list[int]) -> None:
    """As `test_through_any_cache`, in batches of different length; the first layer's rows are those of the modules."""
    ids, mask = torch.randint(0, 50, (3, 40)), torch.ones(3, 40, dtype=torch.long)
    mask[0, :17], mask[2, :1] = 0, 0
    for counted in ({"kv_bits": 8}, {"kv_bits": 8, "kv_range": "asymmetric", "kv_group": 4}):
        model = load(converted(transformer, **FINE, **counted))
        plain, results, rows = long_way(model), [], []
        both = [step_by_step(each, ids, 4, mask) for each in (model, plain)]
        for one, other in zip(*both, strict=True):
            real = mask.bool() if one.shape[1] > 1 else torch.ones(3, 1, dtype=torch.bool)
            assert close(one[real], other[real])
        for each in (model, plain):
            with torch.inference_mode():
                cache, more = memory_of(each, each(ids, use_cache=True)), ids
                held = cache.layers[0]
                assert held.keys.dtype == torch.uint8
                parts = [held.values] if transformer == "qwen3" else [held.keys, held.values]  # a norm by torch
                rows.append(torch.cat([part[:, :, -7:] for part in parts], -1).clone())
                each(ids[:, :3], **{memory_keyword(each): cache}, use_cache=True)
                if transformer != "mistral":
                    cache.crop(-2)
                    cache.reorder_cache(torch.tensor([1, 2, 0]))
                    cache.batch_select_indices(torch.tensor([0, 1]))
                    more = ids[:2]
                results.append(each(more[:, :5], **{memory_keyword(each): cache}, use_cache=True).logits)
        assert close(*results) and torch.equal(*rows)
    assert len(runs) == 2 * (5 + 3)


def test_counts_go_on_in_the_modules_and_back(converted: Converted, runs: list[int]) -> None:
    """One cache, by turns: whoever wants another way of attention, or an output besides, gets the modules on the same
    rows."""
    model = load(converted("llama", **FINE, kv_bits=8))
    ids = torch.randint(0, 50, (2, 6))
    with torch.inference_mode():
        expected = model(ids.repeat(1, 4), use_cache=False).logits
        cache, logits = memory_of(model, model(ids, use_cache=True)), []
        for change in ("more outputs", "unfold", "auto"):
            set_execution(model, "unfold" if change == "unfold" else "auto")
            more = {"output_hidden_states": change == "more outputs"}
            logits.append(model(ids, **{memory_keyword(model): cache}, use_cache=True, **more).logits)
    assert len(runs) == 3 and close(torch.cat(logits, 1), expected[:, 6:])
    assert all(layer.keys.shape[2] == 24 for layer in cache.layers)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, long_way(model)(ids).logits)
    assert len(runs) == 3


def test_who_counts_keys_and_values_is_told_by_the_engine(
    converted: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layer the counts of the rows that were kept, which are those of the modules where inputs are the same;
    the logits are those that nobody watched."""
    watched: list[int] = []
    run = integration.run_watched
    monkeypatch.setattr(integration, "run_watched", lambda *arguments: watched.append(1) or run(*arguments))
    ids = torch.randint(0, 50, (3, 21))
    for counted in COUNTED:
        model = load(converted("llama", **FINE, **counted))
        expected, codes = step_by_step(model, ids, 3), list(attention_codes(model).values())
        found, engine = told(model, ids)
        assert all(map(torch.equal, found, expected)) and len(watched) == 4
        _, modules = told(long_way(model), ids)
        assert len(engine) == len(modules) == 4 * 2 * len(codes) and len(watched) == 4
        for index, (one, other) in enumerate(zip(engine, modules, strict=True)):
            assert one[:2] == other[:2] and one[3] == other[3] and one[2].sum() == one[0]
            assert torch.equal(one[2], other[2]) or index // 2 % len(codes) > 0
        watched.clear()


def told(model: Any, ids: Tensor) -> tuple[list[Tensor], list[tuple[int, int, Tensor, int]]]:
    """Logits of some steps, and what those who count keys and values were told."""
    noted: list[tuple[int, int, Tensor, int]] = []

    def note(*what: Any) -> None:
        noted.append(what)

    for code in attention_codes(model).values():
        code.observers = {"k": [note], "v": [note]}
    return step_by_step(model, ids, 3), noted
