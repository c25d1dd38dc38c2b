"""RWKV-4 as repaired and RWKV-6: one token at a time, in batches, from a state, and the same in every execution."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from spikeconv.errors import SpikeconvError
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.models.adopt import adopt

Fixture = Callable[..., Any]


def load(path: Path) -> Any:
    return adopt(AutoModelForCausalLM.from_pretrained(path).eval())


def step_by_step(model: Any, ids: Tensor, memory: str, sizes: list[int]) -> tuple[Tensor, Any]:
    seen, logits = None, []
    with torch.no_grad():
        for piece in ids.split(sizes, 1):
            output = model(piece, use_cache=True, **{memory: seen})
            seen = memory_of(model, output)
            logits.append(output.logits)
    return torch.cat(logits, 1), seen


@pytest.mark.parametrize("sizes", [[1] * 11, [4, 1, 6]])
@pytest.mark.parametrize("spiking", [False, True])
def test_a_batch_read_in_pieces(
    recurrent: str, sizes: list[int], spiking: bool, tiny_checkpoint: Fixture, converted: Fixture, tokens: Tensor
) -> None:
    model = load(converted(recurrent, bits="4-16") if spiking else tiny_checkpoint(recurrent))
    with torch.no_grad():
        whole = model(tokens, use_cache=False).logits
    pieces, _ = step_by_step(model, tokens, memory_keyword(model), sizes)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-4)


def sizes_of(seen: Any) -> list[Any]:
    if isinstance(seen, Tensor):
        return [seen.shape]
    parts = seen if isinstance(seen, list | tuple) else [seen.recurrent_state, seen.attention_shift, seen.ffn_shift]
    return [size for part in parts for size in sizes_of(part)]


def test_memory_does_not_grow(recurrent: str, converted: Fixture) -> None:
    model = load(converted(recurrent))
    memory = memory_keyword(model)
    ids = torch.randint(0, 256, (1, 10_000))
    _, after_ten = step_by_step(model, ids[:, :10], memory, [10])
    _, after_all = step_by_step(model, ids, memory, [2_500] * 4)
    assert sizes_of(after_all) == sizes_of(after_ten) != []


@pytest.mark.parametrize("spiking", [False, True])
def test_left_padding_is_refused(
    recurrent: str, spiking: bool, tiny_checkpoint: Fixture, converted: Fixture, tokens: Tensor
) -> None:
    model = load(converted(recurrent) if spiking else tiny_checkpoint(recurrent))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    if recurrent == "rwkv7":  # the package reads around the padding
        with torch.no_grad():
            padded = model(tokens, attention_mask=mask, use_cache=False).logits[0, 3:]
            alone = model(tokens[:1, 3:], use_cache=False).logits[0]
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-4)
        return
    with pytest.raises(SpikeconvError, match="padded on the left"):
        model(tokens, attention_mask=mask)
    mask = mask.flip(1)
    with torch.no_grad():
        padded = model(tokens, attention_mask=mask, use_cache=False).logits[0, :-3]
        torch.testing.assert_close(padded, model(tokens[:1, :-3], use_cache=False).logits[0], rtol=0, atol=1e-4)


def test_a_batch_continues_as_its_texts_do(recurrent: str, tiny_checkpoint: Fixture, tokens: Tensor) -> None:
    model = load(tiny_checkpoint(recurrent))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    together = model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    for text, row in zip(tokens, together, strict=True):
        assert torch.equal(model.generate(text[None], attention_mask=torch.ones(1, 11), **options)[0], row)


def test_rescaling_is_switched_off(tiny_checkpoint: Fixture, run_convert: Fixture, tmp_path: Path) -> None:
    """`rescale_every` halves weights in place for float16; integers would lose them. The result is the same model."""
    source = tiny_checkpoint("rwkv", rescale_every=1)
    run_convert(source, tmp_path / "out", bits="16-16", rotation="none")
    assert json.loads((tmp_path / "out/config.json").read_text())["rescale_every"] == 0
    ids = torch.randint(0, 256, (1, 9))
    with torch.no_grad():
        expected = load(source)(ids).logits
        # Halved inputs weigh the ε of the norms more: not quite the same numbers.
        torch.testing.assert_close(load(tmp_path / "out")(ids).logits, expected, rtol=0, atol=1e-3)


def test_labels_give_the_loss(tiny_checkpoint: Fixture, tokens: Tensor) -> None:
    output = load(tiny_checkpoint("rwkv6"))(tokens, labels=tokens)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


def test_tied_head(tiny_checkpoint: Fixture, converted: Fixture) -> None:
    path = tiny_checkpoint("rwkv6", tie_word_embeddings=True)
    model = load(path)
    assert model.head.weight is model.rwkv.embeddings.weight


OTHERS = """
import sys, torch, spikeconv
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.rwkv import modeling_rwkv as rwkv
from rwkv7_hf import modeling_rwkv7 as rwkv7

classes = rwkv.RwkvSelfAttention, rwkv.RwkvFeedForward, rwkv.RwkvForCausalLM, rwkv7.RWKV7TimeMix
def methods():
    return [{name: value for name, value in vars(c).items() if callable(value)} for c in classes]

before = methods(), rwkv.rwkv_linear_attention, rwkv7.rwkv7_recurrent
for path in sys.argv[1:]:
    AutoModelForCausalLM.from_pretrained(path)
assert before == (methods(), rwkv.rwkv_linear_attention, rwkv7.rwkv7_recurrent)
for room in (rwkv, rwkv7):
    assert not [name for name, value in vars(room).items() if "spikeconv" in str(getattr(value, "__module__", ""))]
"""


def test_other_people_s_models_stay_as_they_are(converted: Fixture) -> None:
    """Neither importing spikeconv nor loading converted models changes a class or function of another package."""
    command = [sys.executable, "-c", OTHERS, *map(str, (converted("rwkv"), converted("rwkv7")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("spiking", [False, True])
def test_generates_as_the_loop_without_a_state(
    recurrent: str, spiking: bool, tiny_checkpoint: Fixture, converted: Fixture, tokens: Tensor
) -> None:
    model = load(converted(recurrent) if spiking else tiny_checkpoint(recurrent))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    ids = tokens
    with torch.no_grad():
        for _ in range(8):
            logits = model(ids, use_cache=False).logits[:, -1]
            logits[:, model.config.eos_token_id] = -torch.inf  # as min_new_tokens does
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
    assert torch.equal(found, ids)


def test_saved_and_copied_as_what_it_was(recurrent: str, converted: Fixture, tmp_path: Path, tokens: Tensor) -> None:
    """A copy computes the same; what is saved carries the class name that transformers knows."""
    model = load(converted(recurrent))
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(copy.deepcopy(model)(tokens).logits, expected)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(tokens).logits, expected)
