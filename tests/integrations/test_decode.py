"""The short way of one token through a layer gives the bits of the layer's own forward."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.integrations import decode
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.ops.native import load as load_kernels
from spikeconv.record.recorder import Recorder

Converted = Callable[..., Path]
NATIVE = load_kernels("cpu").is_native


def load(path: Path, **arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **arguments).eval()


def long_way(model: Any) -> Any:
    """A copy whose layers have only the forward of their class."""
    plain = copy.deepcopy(model)
    for layer in plain.model.layers:
        layer.__dict__.pop("forward", None)
    return plain


def decoded(model: Any, ids: torch.Tensor, steps: int, **arguments: Any) -> list[torch.Tensor]:
    """Logits of a prompt and of some tokens one by one."""
    with torch.no_grad():
        out = model(ids, use_cache=True, **arguments)
        logits = [out.logits]
        mask = arguments.get("attention_mask")
        for step in range(steps):
            if mask is not None:
                mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
                arguments = {"attention_mask": mask}
            token = torch.full_like(ids[:, :1], step + 3)
            out = model(token, **{memory_keyword(model): memory_of(model, out)}, use_cache=True, **arguments)
            logits.append(out.logits)
    return logits


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every layer that is taken the short way."""
    calls: list[int] = []
    run = decode.decode_layer
    monkeypatch.setattr(decode, "decode_layer", lambda *arguments: calls.append(1) or run(*arguments))
    return calls


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", [1, 2])
def test_same_bits(
    transformer: str, bits: str, dtype: torch.dtype, attention: str, batch: int, converted: Converted, taken: list[int]
) -> None:
    model = load(converted(transformer, bits=bits), dtype=dtype, attn_implementation=attention)
    ids = torch.randint(0, 50, (batch, 11))
    short = decoded(model, ids, 4)
    # Qwen3 has norms of q and k, Mistral's cache is a window.
    fits = transformer in ("llama", "qwen2") and dtype == torch.float32 and attention == "sdpa"
    assert len(taken) == (4 * len(model.model.layers) if fits and NATIVE else 0)
    for one, other in zip(short, decoded(long_way(model), ids, 4), strict=True):
        assert torch.equal(one, other)


def test_same_bits_in_a_padded_batch(transformer: str, converted: Converted) -> None:
    model = load(converted(transformer))
    ids, mask = torch.randint(0, 50, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[0, :4], mask[2, :1] = 0, 0
    short = decoded(model, ids, 3, attention_mask=mask)
    for one, other in zip(short, decoded(long_way(model), ids, 3, attention_mask=mask), strict=True):
        assert torch.equal(one, other)


def test_hooks_take_the_long_way(converted: Converted) -> None:
    model = load(converted("llama"))
    seen: list[str] = []
    hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append("down"))
    decoded(model, torch.randint(0, 50, (1, 3)), 2)
    hook.remove()
    assert len(seen) == 3  # the prompt and two tokens


def test_generates_the_same_tokens(converted: Converted) -> None:
    model = load(converted("llama"))
    ids = torch.randint(0, 50, (1, 5))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **settings), long_way(model).generate(ids, **settings))


def test_partly_converted_layers_are_left_alone(converted: Converted, taken: list[int]) -> None:
    model = load(converted("llama", skip=("*.1.mlp.down_proj",)))
    decoded(model, torch.randint(0, 50, (1, 3)), 5)
    assert len(taken) == (5 if NATIVE else 0)  # one of two layers


def test_replaced_weights_are_seen(converted: Converted, taken: list[int]) -> None:
    """Plans hold addresses: whatever moves a weight, a norm or a module must not leave the old ones in use."""
    model = load(converted("llama"))
    ids = torch.randint(0, 50, (1, 4))
    layer = model.model.layers[0]

    def weight() -> None:
        other = layer.mlp.down_proj.weight.clone()
        other[:, 0] = 0x35
        layer.mlp.down_proj.weight = other

    def in_place() -> None:
        layer.self_attn.o_proj.weight_scale *= 1.5

    def norm() -> None:
        layer.input_layernorm.weight.data = layer.input_layernorm.weight * 2

    def module() -> None:
        layer.mlp.act_fn = torch.nn.GELU()

    before = decoded(model, ids, 2)
    for change in (weight, in_place, norm, module):
        change()
        after = decoded(model, ids, 2)
        assert not torch.equal(after[2], before[2]), change.__name__
        for one, other in zip(after, decoded(long_way(model), ids, 2), strict=True):
            assert torch.equal(one, other), change.__name__
        before = after


def test_every_spike_is_recorded(converted: Converted, taken: list[int]) -> None:
    model = load(converted("llama"))
    with Recorder(model) as recorder:
        decoded(model, torch.randint(0, 50, (2, 3)), 4)
    assert not taken
    assert all(totals.tokens == 2 * (3 + 4) for totals in recorder.statistics.values())


def test_the_cache_stays_transformers_own(converted: Converted, taken: list[int]) -> None:
    """Tokens that went the short way can be cropped, reordered and continued by a prompt."""
    model = load(converted("llama"))
    ids = torch.randint(0, 50, (2, 6))
    results = []
    for each in (model, long_way(model)):
        with torch.no_grad():
            cache = memory_of(each, each(ids, use_cache=True))
            for _ in range(3):
                each(ids[:, :1], **{memory_keyword(each): cache}, use_cache=True)
            assert cache.get_seq_length() == 9
            cache.crop(-2)
            cache.reorder_cache(torch.tensor([1, 0]))
            results.append(each(ids[:, :3], **{memory_keyword(each): cache}, use_cache=True).logits)
    assert torch.equal(*results) and bool(taken) == NATIVE


def test_gradients_take_the_long_way(converted: Converted, taken: list[int]) -> None:
    model = load(converted("llama"))
    cache = memory_of(model, model(torch.tensor([[1, 2]]), use_cache=True))
    model(torch.tensor([[3]]), **{memory_keyword(model): cache}, use_cache=True)
    assert not taken
