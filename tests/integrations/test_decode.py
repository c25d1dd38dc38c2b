"""The short way of one token through a layer gives the bits of the layer's own forward."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from spikeconv.integrations import decode

Converted = Callable[..., Path]


def load(path: Path, **arguments: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **arguments).eval()


def long_way(model: Any) -> Any:
    """A copy whose layers have only the forward of their class."""
    plain = copy.deepcopy(model)
    for layer in plain.model.layers:
        del layer.forward
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
            out = model(token, past_key_values=out.past_key_values, use_cache=True, **arguments)
            logits.append(out.logits)
    return logits


def test_every_layer_has_it(family: str, converted: Converted) -> None:
    model = load(converted(family))
    assert all("forward" in vars(layer) for layer in model.model.layers)


@pytest.mark.parametrize("bits", ["4-1.58", "4-1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_same_bits(
    family: str, bits: str, dtype: torch.dtype, attention: str, converted: Converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(converted(family, bits=bits), dtype=dtype, attn_implementation=attention)
    taken: list[int] = []
    attend = decode._attend
    monkeypatch.setattr(decode, "_attend", lambda *arguments: taken.append(1) or attend(*arguments))
    ids = torch.randint(0, 50, (2, 11))
    short = decoded(model, ids, 4)
    assert len(taken) == (4 * len(model.model.layers) if attention == "sdpa" else 0)
    for one, other in zip(short, decoded(long_way(model), ids, 4), strict=True):
        assert torch.equal(one, other)


def test_same_bits_in_a_padded_batch(family: str, converted: Converted) -> None:
    model = load(converted(family))
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


def test_partly_converted_layers_are_left_alone(converted: Converted) -> None:
    model = load(converted("llama", skip=("*.1.mlp.down_proj",)))
    assert ["forward" in vars(layer) for layer in model.model.layers] == [True, False]
