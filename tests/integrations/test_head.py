"""The output head: the checkpoint's numbers in as few bytes as hold them, or eight bits for who asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import spikeconv
from spikeconv.engine import BLOCK, Engine, Head, Sequence, head_of
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.integrations.head import HeadForward, is_rounded_by_choice, round_head
from spikeconv.ops.native import cpu_kernels, float_head, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels

pytestmark = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the head's product is native code")


WIDE = "mistral"
"""The tiny model with a hidden size in whole blocks."""


def blocks(rows: int, width: int) -> Tensor:
    """Numbers as GGUF's Q8_0 has them: float16 scales of whole numbers, the largest of which is 127."""
    counts = torch.randint(-127, 128, (rows, width // BLOCK, BLOCK))
    counts[..., 5] = 127
    scales = torch.rand(rows, width // BLOCK, 1).half().float()
    scales[0] = 0
    return (counts * scales).flatten(1)


def numbers_of(head: Head) -> Tensor:
    """float32 [vocabulary, hidden]."""
    if head.scale is None:
        return head.weight.float()
    return (head.weight.float().unflatten(1, (-1, BLOCK)) * head.scale[..., None]).flatten(1)


def test_same_numbers_in_fewest_bytes() -> None:
    torch.manual_seed(1)
    for rows in (3, 5000):
        floats = torch.randn(rows, 2 * BLOCK)
        cases = {torch.int8: blocks(rows, 2 * BLOCK), torch.bfloat16: floats.bfloat16().float(), torch.float32: floats}
        late = cases[torch.int8].clone()  # no number of eight bits but in the last row
        late[-1] = floats[-1]
        for dtype, weight in (*cases.items(), (torch.float32, late)):
            head = head_of(weight)
            assert head.weight.dtype == dtype and head.is_exact and torch.equal(numbers_of(head), weight)
            assert head_of(weight) is head
        odd = blocks(rows, 2 * BLOCK)[:, 1:].contiguous()
        assert torch.equal(numbers_of(head_of(odd)), odd) and head_of(odd, 8).scale is None
    strange = torch.full((2, BLOCK), torch.nan)
    assert head_of(strange, 8).weight.isnan().all()


def test_rounded_to_eight_bits_by_choice() -> None:
    weight = torch.randn(4100, 3 * BLOCK)
    head = head_of(weight, 8)
    assert head.scale is not None and not head.is_exact
    step = weight.unflatten(1, (-1, BLOCK)).abs().amax(-1) / 127
    assert torch.equal(head.scale, step)
    wrong = (numbers_of(head) - weight).unflatten(1, (-1, BLOCK)).abs()
    assert (wrong <= 0.5001 * step[..., None]).all()
    exact = blocks(9, 3 * BLOCK)
    assert head_of(exact, 8).is_exact and torch.equal(numbers_of(head_of(exact, 8)), exact)
    before = numbers_of(head_of(exact, 8))
    exact.mul_(2)
    assert torch.equal(numbers_of(head_of(exact, 8)), 2 * before)  # a change in place is seen


@pytest.mark.parametrize("kernels", cpu_kernels() or ["none"])
def test_products(kernels: str) -> None:
    used = use_cpu_kernels("auto")
    try:
        use_cpu_kernels(kernels)
        for width in (BLOCK, 5 * BLOCK, 50):
            for vocabulary in (1, 49, 200):
                weight = torch.randn(vocabulary, width)
                for held in (weight, weight.bfloat16().float(), *([blocks(vocabulary, width)] if width != 50 else [])):
                    head, bias = head_of(held), torch.randn(vocabulary)
                    for tokens in (1, 2, 3, 4, 5, 40):
                        x = torch.randn(tokens, width)
                        for added in (None, bias):
                            y = float_head(x, head.weight, head.scale, added)
                            exact = nn.functional.linear(
                                x.double(), held.double(), None if added is None else added.double()
                            )
                            bound = (x.double().abs() @ held.double().abs().T + 1) * width * 2**-23
                            assert ((y - exact).abs() <= bound).all()
    finally:
        use_cpu_kernels(used)


def test_of_a_model(converted: Callable[..., Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(converted("llama")).eval()
    with pytest.raises(SpikeconvError, match="8 bits"):
        round_head(model, 4)
    with pytest.raises(SpikeconvError, match=f"multiple of {BLOCK}"):
        spikeconv.load(converted("llama"), head_bits=8)
    wide = nn.Linear(BLOCK, 64, bias=False)
    head: Any = HeadForward(wide)
    x = torch.randn(2, 3, BLOCK)
    with torch.no_grad():
        plain = head(x)
        head.bits = 8
        rounded = head(x)
    assert torch.allclose(plain, wide(x), atol=1e-5) and not torch.equal(plain, rounded)
    assert torch.allclose(rounded, plain, atol=0.05)
    assert torch.equal(head(x), wide(x))  # gradients: torch's own product


def test_results_say_that_it_is_rounded(converted: Callable[..., Path]) -> None:
    path = converted(WIDE)
    for options, dtype in (
        ({}, "float32"),
        ({"head_bits": 8}, "float32, 8-bit head"),
        ({"head_bits": 8, "cache_dtype": "bfloat16"}, "float32, 8-bit head, bfloat16 cache"),
    ):
        loaded: Any = load_checkpoint(path, device="cpu", dtype="float32", **options)  # type: ignore[arg-type]
        assert loaded.compute == {"dtype": dtype, "device": "cpu"}


def test_of_an_engine(converted: Callable[..., Path]) -> None:
    """Logits of an engine by hand are those of its rounded numbers."""
    model = spikeconv.load(path := converted(WIDE))
    ids, wanted = torch.arange(9), torch.arange(9)
    found = []
    for bits in (None, 8):
        engine = Engine(model, head_bits=bits)
        found.append(engine.forward(ids, [Sequence(9)], engine.cache(1, 9), wanted, logits=True))
        hidden = engine.forward(ids, [Sequence(9)], engine.cache(1, 9), wanted, logits=False)
        expected = hidden @ numbers_of(head_of(model.lm_head.weight, bits)).T
        assert torch.allclose(found[-1], expected, atol=1e-5)
    assert not torch.equal(*found)
    rounded = spikeconv.load(path, head_bits=8)
    with torch.inference_mode():
        assert torch.equal(rounded(ids[None]).logits[0], found[1])
    assert (
        is_rounded_by_choice(rounded)
        and rounded.lm_head.forward.bits == 8
        and not is_rounded_by_choice(torch.nn.Module())
    )
    for bits, logits in ((8, found[1]), (None, found[0])):
        round_head(rounded, bits)
        with torch.inference_mode():
            assert torch.equal(rounded(ids[None]).logits[0], logits)
