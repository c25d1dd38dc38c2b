"""Scores by the engine, where what requests have in common is computed once, are those of every request alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from spikeconv.evaluate.models import LoadedModel
from spikeconv.integrations import lm_eval as adapter
from spikeconv.integrations.engine import engine_of, modules_only
from spikeconv.integrations.lm_eval import HarnessModel, run_harness
from spikeconv.ops.native import load as load_kernels
from spikeconv.progress import silent

Converted = Callable[..., Path]
Request = tuple[tuple[str, str] | None, list[int], list[int]]

LONGEST = 64

needs_engine = pytest.mark.skipif(not load_kernels("cpu").is_native, reason="the engine is native code")


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def harness(model: Any, tiny: LoadedModel, batch_size: Any = "auto", longest: int = LONGEST) -> HarnessModel:
    ours = HarnessModel(model, tiny.tokenizer, batch_size, silent)
    ours._max_length = longest
    return ours


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(1, 40, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def requests() -> list[Request]:
    """Endings of one context, contexts that begin alike, one token, duplicates, too much for the model, no key."""
    pairs = []
    for length in (1, 2, 12, 30, 47, 100):
        context = tokens(length, 7)  # each the beginning of the next
        pairs += [(context, tokens(n, 100 * length + n)) for n in (1, 2, 3, 9, 16)]
        pairs += [(context, [n]) for n in (3, 4, 5)]
        pairs += [(context[:-2] + tokens(2, length), tokens(4, length + 1))] * 2 if length > 2 else []
    pairs += [(tokens(n, n), tokens(1 + n % 5, n)) for n in (1, 20, 64, 65, 5)]
    pairs.append((tokens(1, 3), tokens(LONGEST, 4)))
    keyed: list[Request] = [((str(i), ""), *pair) for i, pair in enumerate(pairs)]
    return [*keyed, (None, *pairs[0])]


@needs_engine
def test_same_scores_as_alone_and_as_the_modules(transformer: str, converted: Converted, tiny: LoadedModel) -> None:
    model = load(converted(transformer, bits="8-8"))
    asked = requests()
    plain = HFLM(pretrained=model, tokenizer=tiny.tokenizer, batch_size=1, max_length=LONGEST)
    with modules_only(model):
        context = asked[20][1]
        greedy = model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False, pad_token_id=0)
        asked.append((("greedy", ""), context, greedy[0, len(context) :].tolist()))
        expected = plain._loglikelihood_tokens(asked, disable_tqdm=True)
    assert any(is_greedy for _, is_greedy in expected)
    # With coarse counts a sum in another order would show.
    for each in (model, load(converted(transformer, bits="4-1.58"))):
        alone = [harness(each, tiny)._loglikelihood_tokens([request])[0] for request in asked]
        for batch_size in ("auto", 1, 5):
            ours = harness(each, tiny, batch_size)
            found = ours._loglikelihood_tokens(asked)
            assert 0 < ours.tokens < sum(min(len(c) + len(a) - 1, LONGEST) for _, c, a in asked) / 2
            for (score, is_greedy), (same, also_greedy) in zip(found, alone, strict=True):
                assert score == pytest.approx(same, rel=1e-5) and is_greedy == also_greedy
        if each is model:
            for (score, is_greedy), (close, also_greedy) in zip(alone, expected, strict=True):
                assert score == pytest.approx(close, rel=5e-3) and is_greedy == also_greedy


@needs_engine
def test_a_context_is_computed_once(converted: Converted, tiny: LoadedModel) -> None:
    """One that is longer than a call, or than the rest of one, too; every request is told of and remembered."""
    model = load(converted("llama"))
    for length, rest in ((40, 10), (700, 3), (450, 40), (13, 500)):
        asked = [((f"{length}", f"{i}"), tokens(length, length), [i, *tokens(rest, i)]) for i in range(5)]
        shown: list[int] = []

        def track(items: Any, _what: str, total: int | None = None, shown: list[int] = shown) -> Any:
            assert total == 5
            for item in items:
                shown.append(item)
                yield item

        ours = HarnessModel(model, tiny.tokenizer, "auto", track)
        ours._max_length = 1024
        partial: dict[Any, Any] = {}
        ours.cache_hook.add_partial = lambda _kind, key, answer, to=partial: to.update({key: answer})
        found = ours._loglikelihood_tokens(asked)
        assert ours.tokens == length + 5 * rest
        assert shown == list(range(5)) and [partial[key] for key, _, _ in asked] == found
        for request, (score, _) in zip(asked, found, strict=True):
            alone = harness(model, tiny, longest=1024)._loglikelihood_tokens([request])[0][0]
            assert score == pytest.approx(alone, rel=1e-5)


@needs_engine
def test_rolling_windows(converted: Converted, tiny: LoadedModel) -> None:
    model = load(converted("llama", bits="8-8"))
    asked: Any = [type("Text", (), {"args": (text,)}) for text in ("a", "The quick brown fox " * 9, "")]
    found = harness(model, tiny).loglikelihood_rolling(asked, disable_tqdm=True)
    with modules_only(model):
        plain = HFLM(pretrained=model, tokenizer=tiny.tokenizer, batch_size=1, max_length=LONGEST)
        assert found == pytest.approx(plain.loglikelihood_rolling(asked, disable_tqdm=True), rel=5e-3)


@needs_engine
def test_who_watches_gets_the_models_forward(
    converted: Converted, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook anywhere, another forward, another dtype; but not the hook that counts, nor the guard of the first one."""
    asked = requests()
    runs: list[int] = []
    monkeypatch.setattr(adapter, "score", lambda *args, run=adapter.score: runs.append(1) or run(*args))
    model = load(converted("llama"))
    monkeypatch.setattr(
        adapter.lm_eval.evaluator, "simple_evaluate", lambda **a: a["model"]._loglikelihood_tokens(asked)
    )
    ours = harness(model, tiny)
    run_harness(ours, [])
    assert len(runs) == 1 and not model._forward_hooks
    for module in (model, model.lm_head, model.model, model.model.layers[1].mlp):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            hook = register(lambda *_: None)
            assert engine_of(model, 64) is None
            harness(model, tiny)._loglikelihood_tokens(asked[:3])
            hook.remove()
    forward = model.forward
    model.forward = lambda *args, **options: forward(*args, **options)
    harness(model, tiny)._loglikelihood_tokens(asked[:3])
    del model.forward
    assert len(runs) == 1 and engine_of(model, 64) is not None
    harness(model.to(torch.bfloat16), tiny)._loglikelihood_tokens(asked[:3])
    assert len(runs) == 1


def test_recurrent_models_have_no_engine(converted: Converted, tiny: LoadedModel) -> None:
    model = load(converted("rwkv6"))
    assert engine_of(model, 64) is None
    assert len(harness(model, tiny)._loglikelihood_tokens(requests()[:6])) == 6


@needs_engine
@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_nothing_to_score(pair: Any, converted: Converted, tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"request 1: \d tokens"):
        harness(load(converted("llama")), tiny)._loglikelihood_tokens([(None, [1], [2]), (None, *pair)])
