"""The output head: the checkpoint's numbers in as few bytes as hold them, or eight bits for who asks."""

import math
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
from spikeconv.integrations.head import CHUNK, HeadForward, is_rounded_by_choice, likelihoods_by, round_head
from spikeconv.ops.native import cpu_kernels, use_cpu_kernels
from spikeconv.ops.native import load as load_kernels
from spikeconv.ops.native_models import float_head, head_likelihoods

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
        for width in (BLOCK, 5 * BLOCK, 50, 150):
            for vocabulary in (1, 49, 200):
                weight = torch.randn(vocabulary, width)
                for held in (
                    weight,
                    weight.bfloat16().float(),
                    *([] if width % BLOCK else [blocks(vocabulary, width)]),
                ):
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


@pytest.mark.parametrize("kernels", cpu_kernels() or ["none"])
def test_likelihoods(kernels: str) -> None:
    """Those of float64 logits, within the bound of their sums; the same bits for any number of threads."""
    torch.manual_seed(2)
    used, threads = use_cpu_kernels("auto"), torch.get_num_threads()
    try:
        use_cpu_kernels(kernels)
        for width, vocabulary, count in (
            (BLOCK, 1, 3),
            (50, 49, 1),
            (5 * BLOCK, 800, 150),
            (3 * BLOCK, 385, 33),
            (150, 50, 70),
        ):
            x, rows = torch.randn(count, width), torch.randint(count, (200,))
            tokens, bias = torch.randint(vocabulary, (200,)), 5 * torch.randn(vocabulary)
            floats = torch.randn(vocabulary, width)
            for held in (floats, floats.bfloat16().float(), *([] if width % BLOCK else [blocks(vocabulary, width)])):
                head = head_of(held)
                for added in (None, bias):
                    logits = nn.functional.linear(x.double(), held.double(), None if added is None else added.double())
                    expected = logits.log_softmax(-1)
                    found = []
                    for torch_threads in (1, 2, 3):
                        torch.set_num_threads(torch_threads)
                        found.append(head_likelihoods(x, head.weight, head.scale, added, rows, tokens))
                    likelihoods, is_best = found[0]
                    assert all(
                        torch.equal(each, first) for part in found for each, first in zip(part, found[0], strict=True)
                    )
                    bound = 4 * ((x.double().abs() @ held.double().abs().T).amax() + 16) * (width + vocabulary) * 2**-24
                    assert ((likelihoods - expected[rows, tokens]).abs() <= bound).all()
                    top = logits.topk(min(2, vocabulary)).values
                    clear = (top[:, 0] - top[:, -1] > bound) | (vocabulary == 1)
                    assert clear.sum() > count // 2
                    right = logits.argmax(-1)[rows] == tokens
                    assert torch.equal(is_best[clear[rows]], right[clear[rows]])
    finally:
        use_cpu_kernels(used)
        torch.set_num_threads(threads)


def test_likelihoods_of_extremes() -> None:
    """Logits that are far apart, equal, infinite or no numbers; what is asked for is looked at."""
    x, weight = torch.tensor([[1.0], [-1.0], [0.0], [torch.nan]]), torch.tensor([[1e4], [-1e4], [0.0], [1e4]])
    rows, tokens = torch.arange(4).repeat_interleave(4), torch.arange(4).repeat(4)
    likelihoods, is_best = head_likelihoods(x, weight, None, None, rows, tokens)
    half = -math.log(2)
    first = [half, half - 2e4, half - 1e4, half]
    close = torch.tensor([*first, -2e4, 0, -1e4, -2e4, *[2 * half] * 4], dtype=torch.float64)
    assert torch.allclose(likelihoods[:12], close, rtol=1e-6) and likelihoods[12:].isnan().all()
    assert is_best.nonzero()[:, 0].tolist() == [0, 5, 8]
    never = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
    found, _ = head_likelihoods(torch.zeros(1, 1), weight, None, never, torch.zeros(4, dtype=torch.int64), tokens[:4])
    assert torch.allclose(found, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3], dtype=torch.float64).log())
    none = torch.empty(0, dtype=torch.int64)
    assert head_likelihoods(x, weight, None, None, none, none)[0].shape == (0,)
    for row, token in ((4, 0), (-1, 0), (0, 4), (0, -1)):
        with pytest.raises(RuntimeError, match="is asked for, of 4 rows and 4 tokens"):
            head_likelihoods(x, weight, None, None, torch.tensor([row]), torch.tensor([token]))


def test_likelihoods_by_native_code_or_by_logits() -> None:
    """A head that somebody watches, or whose logits are computed otherwise, is called; both agree."""
    torch.manual_seed(3)
    wide: Any = nn.Linear(2 * BLOCK, 300)
    x, rows = torch.randn(2 * CHUNK + 5, 2 * BLOCK), torch.randint(2 * CHUNK + 5, (50,))
    tokens = torch.randint(300, (50,))
    with torch.inference_mode():
        expected = wide(x).double().log_softmax(-1)[rows, tokens]
        plain = likelihoods_by(wide)(x, rows, tokens)
        wide.forward = HeadForward(wide)
        native = likelihoods_by(wide)(x, rows, tokens)
        calls: list[int] = []
        wide.register_forward_hook(lambda *_: calls.append(1))
        watched = likelihoods_by(wide)(x, rows, tokens)
    assert len(calls) == 3
    for likelihoods, is_best in (plain, native, watched):
        assert likelihoods.dtype == torch.float64 and torch.allclose(likelihoods, expected, atol=1e-5)
        assert torch.equal(is_best, native[1])
    assert torch.allclose(likelihoods_by(wide)(x, rows, tokens)[0], expected, atol=1e-5)  # with gradients: torch's own


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
