"""What runs another way than it should says so: once at loading, in `fallbacks`, and in `verify` for the cache."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TRANSFORMERS
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from spikeconv.config import KvSettings
from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.integrations import memory
from spikeconv.integrations.attention import float_caches
from spikeconv.integrations.fallbacks import fallbacks
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.nn import COUNT_ATTENTION, attention_codes
from spikeconv.ops.native import Backend
from spikeconv.ops.native import load as load_kernels
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
NATIVE = load_kernels("cpu").is_native
needs_kernels = pytest.mark.skipif(not NATIVE, reason="needs the native kernels")


def load(path: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


def ours(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(one.message) for one in caught if issubclass(one.category, SpikeconvWarning)]


@needs_kernels
def test_normal_use_is_silent(family: str, converted: Fixture, tokens: Tensor) -> None:
    for settings in ({}, {} if family not in TRANSFORMERS else {"kv_bits": 4}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = load(converted(family, **settings))
            model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, pad_token_id=0)
            load(converted(family, **settings), dtype=torch.bfloat16)
        assert fallbacks(model) == []


@needs_kernels
def test_what_was_chosen_is_told_but_no_warning(converted: Fixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = {
            "computes in bfloat16": load(converted("llama"), dtype=torch.bfloat16),
            "attention is 'eager'": load(converted("llama"), attn_implementation="eager"),
            "salient channels of its keys and values": load(converted("llama", kv_bits=4)),
            "counts of keys and values are not the same": load(converted("llama", kv_bits=4)),
            "attention over its counts was set to 'unfold'": load(converted("llama", kv_bits=4)),
            "in 1 of 2 layers not every linear": load(converted("llama", skip=("*.1.mlp.down_proj",))),
            "in 2 of 2 layers the activation is GELU": load(converted("llama")),
        }
    for layer in models["in 2 of 2 layers the activation is GELU"].model.layers:
        layer.mlp.act_fn = nn.GELU()
    salient, unlike, unfolded = (list(attention_codes(each).values()) for each in list(models.values())[2:5])
    for code in salient:
        code.scheme = KvSettings(bits=4, range="asymmetric", low_share=0.5)
    unlike[0].scheme = KvSettings(bits=5)
    unfolded[1].execution = "unfold"
    for words, model in models.items():
        (text,) = fallbacks(model)
        assert words in text and text.startswith("The model runs transformers' own layers")


@needs_kernels
def test_layers_of_an_unknown_transformers_warn(
    converted: Fixture, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other modules, or another's class of that name: nobody knows what it computes. The logits stay what they are."""
    expected = load(converted("llama"))(tokens).logits
    build, module = LlamaDecoderLayer.__init__, LlamaDecoderLayer.__module__

    def with_more(self: Any, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        self.more = torch.nn.Identity()

    for name, value, words in (
        ("__init__", with_more, "is built of other modules"),
        ("__module__", "transformers_modules.somebody", "LlamaDecoderLayer is not transformers' own"),
    ):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(LlamaDecoderLayer, name, value)
            model = load(converted("llama"))
        (text,) = ours(caught)
        assert "The model runs transformers' own layers" in text and words in text
        assert torch.equal(model(tokens).logits, expected)
    assert LlamaDecoderLayer.__module__ == module


def test_missing_kernels_are_told(converted: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: a model without kernels has no native layer either, which goes without saying."""
    model = load(converted("llama"))
    nothing = Backend("reference", "no compiler was found")
    monkeypatch.setattr("spikeconv.integrations.fallbacks.load", lambda device: nothing)
    monkeypatch.setattr("spikeconv.engine.kinds.load", lambda device: nothing)
    assert fallbacks(model) == ["On cpu the reference stands in for the native kernels: no compiler was found."]


def test_a_cache_that_cannot_be_given_to_the_model_warns(converted: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEYWORDS", ("what_it_was_once_called",))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(converted("llama", kv_bits=4))
    (engine, text) = ours(caught)
    assert text.startswith("Keys and values stay float") and "takes no what_it_was_once_called" in text
    assert text in fallbacks(model) and "not the engine" in engine


def test_another_attention_is_told_and_verify_fails(converted: Fixture, tokens: Tensor) -> None:
    """Whoever sets another attention has a float model of keys and values, and is told."""
    loaded = load_checkpoint(converted("llama", kv_bits=4), device="cpu")
    model = loaded.model
    assert float_caches(model, tokens) == [] and verify(loaded, "Four score", source=False).clean
    model.set_attn_implementation("sdpa")
    with pytest.warns(SpikeconvWarning, match="attention was set to 'sdpa'"):
        logits = model(tokens).logits
    assert logits.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(tokens)  # once is enough
        assert len(float_caches(model, tokens)) == 2
        result = verify(loaded, "Four score", source=False)
    assert not result.clean and len(result.float_caches) == 2 and "DynamicLayer" in result.float_caches[0]
    assert "its attention is 'sdpa'" in fallbacks(model)[0]
    model.set_attn_implementation(COUNT_ATTENTION)
    assert verify(loaded, "Four score", source=False).clean


@pytest.mark.parametrize("keyword", ["past_key_values", "cache", "positional", "none"])
def test_a_cache_comes_in_by_any_way(keyword: str, converted: Fixture, tokens: Tensor) -> None:
    for settings in ({}, {"kv_bits": 4}):
        model = load(converted("llama", **settings))
        known = memory_keyword(model)
        if keyword == "cache" != known:
            continue  # transformers before 5.24 has no such argument
        with torch.no_grad():
            first = model(tokens[:, :6], use_cache=True)
            seen = memory_of(model, first)
            expected = model(tokens[:, 6:], **{known: memory_of(model, model(tokens[:, :6], use_cache=True))}).logits
            if keyword == "positional":
                names = list(inspect.signature(type(model).forward).parameters)[1:]
                more = [seen if name == known else None for name in names[1 : names.index(known) + 1]]
                logits = model.lm_head(model.model(tokens[:, 6:], *more).last_hidden_state)
                seen.crop(-5)  # once more, from the model with its head
                assert torch.equal(model(tokens[:, 6:], *more).logits, logits)
            elif keyword == "none":
                assert torch.equal(model(tokens[:, :6], past_key_values=None, use_cache=True).logits, first.logits)
                assert torch.equal(model(tokens[:, :6], None, None, None, use_cache=True).logits, first.logits)
                continue
            else:
                logits = model(tokens[:, 6:], **{keyword: seen}).logits
        assert torch.equal(logits, expected)


def test_counts_in_the_cache_of_a_family_without_one_are_refused(converted: Fixture) -> None:
    model = load(converted("rwkv6"))
    with pytest.raises(SpikeconvError, match="Rwkv6ForCausalLM, which has none"):
        from spikeconv.config import SpikeConfig
        from spikeconv.integrations.attention import use_spiking_attention

        kv = SpikeConfig.parse({"kv_bits": 4}).kv
        assert kv is not None
        use_spiking_attention(model, kv, 0)


def test_tokens_may_lie_anyhow(converted: Callable[..., Path]) -> None:
    """A column of a batch, every other token, a batch on its side, the same token again and again."""
    ids = torch.randint(0, 50, (4, 6))
    for family in ("llama", "rwkv", "rwkv6"):
        model = load(converted(family))
        with torch.inference_mode():
            for view in (ids[:, :1], ids[:1, ::2], ids.T[:, 1:3], ids[:, 2:3].expand(4, 3)):
                laid_out = torch.tensor(view.tolist())
                assert not view.is_contiguous() and torch.equal(model(view).logits, model(laid_out).logits)
