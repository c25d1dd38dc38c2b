"""Models whose keys and values are spike counts: every kind of use of a cache gives what one long forward gives."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from spikeconv import ops
from spikeconv.codes import Ramp
from spikeconv.config import KvSettings, SpikeConfig
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.integrations.engine import modules_only
from spikeconv.integrations.memory import memory_keyword, memory_of
from spikeconv.nn import COUNT_ATTENTION, attention_codes
from spikeconv.record.text import record_text
from spikeconv.report.firing_rate import firing_report
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
EXACT = {"bits": "16-16", "rotation": "none"}
SETTINGS = [{"kv_bits": 4}, {"kv_bits": 4, "kv_range": "asymmetric"}, {"kv_bits": 6, "kv_group": 4}]
BOUND = 1e-4


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


@torch.no_grad()
def whole(model: Any, ids: Tensor, **options: Any) -> Tensor:
    logits: Tensor = model(ids, use_cache=False, **options).logits
    return logits


@pytest.mark.parametrize("settings", SETTINGS)
def test_reading_in_pieces(transformer: str, settings: dict[str, Any], converted: Fixture, tokens: Tensor) -> None:
    """Mistral's window of 8 is shorter than the 11 tokens."""
    model = load(converted(transformer, **EXACT, **settings))
    expected, cache, logits = whole(model, tokens), None, []
    with torch.no_grad():
        for piece in tokens.split([4, 1, 1, 3, 1, 1], 1):
            output = model(piece, **{memory_keyword(model): cache}, use_cache=True)
            cache = memory_of(model, output)
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), expected, rtol=0, atol=BOUND)
    assert all(layer.keys.dtype == layer.values.dtype == torch.uint8 for layer in cache.layers)


def test_eight_bits_are_near_the_float_model(
    transformer: str, tiny_checkpoint: Fixture, converted: Fixture, logits_of: Fixture
) -> None:
    expected = logits_of(tiny_checkpoint(transformer))
    errors = [
        (logits_of(converted(transformer, **EXACT, kv_bits=bits)) - expected).norm() / expected.norm()
        for bits in (3, 5, 8)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02, errors


def test_executions_agree(transformer: str, converted: Fixture, tokens: Tensor) -> None:
    model = load(converted(transformer, **EXACT, kv_bits=4))
    expected = whole(model, tokens)
    for code in attention_codes(model).values():
        code.execution = "unfold"
    torch.testing.assert_close(whole(model, tokens), expected, rtol=0, atol=BOUND)


def test_with_spiking_linears_it_saves_and_reloads(converted: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    model = load(converted("qwen3", kv_bits=4))
    assert model.config._attn_implementation == COUNT_ATTENTION and len(attention_codes(model)) == 2
    expected = logits_of(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(load(tmp_path)), expected)


def test_generates_as_without_a_cache(transformer: str, converted: Fixture, tokens: Tensor) -> None:
    model = load(converted(transformer, kv_bits=4))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(tokens)
    assert torch.equal(
        model.generate(tokens, attention_mask=mask, **options),
        model.generate(tokens, attention_mask=mask, use_cache=False, **options),
    )


def test_beams_and_padding(converted: Fixture, tokens: Tensor) -> None:
    model = load(converted("qwen2", **EXACT, kv_bits=4))
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    beams = {"num_beams": 3, **options}
    mask = torch.ones_like(tokens)
    assert torch.equal(
        model.generate(tokens, attention_mask=mask, **beams),
        model.generate(tokens, attention_mask=mask, use_cache=False, **beams),
    )
    mask[0, :4] = 0
    together = model.generate(tokens, attention_mask=mask, **options)
    alone = model.generate(tokens[:1, 4:], attention_mask=mask[:1, 4:], **options)
    assert torch.equal(together[0, 4:], alone[0])


def test_a_conversation_goes_on_and_is_taken_back(converted: Fixture, tokens: Tensor) -> None:
    model = load(converted("llama", **EXACT, kv_bits=4))
    expected = whole(model, tokens)
    with torch.no_grad():
        cache = memory_of(model, model(tokens[:, :6], use_cache=True))
        model(tokens[:, :3], **{memory_keyword(model): cache})  # three tokens that are then taken back
        cache.crop(-3)
        logits = model(tokens[:, 6:], **{memory_keyword(model): cache}).logits
    torch.testing.assert_close(logits, expected[:, 6:], rtol=0, atol=BOUND)


def test_bytes_of_a_cached_token(converted: Fixture, tokens: Tensor) -> None:
    model = load(converted("llama", **EXACT, kv_bits=4))
    with torch.no_grad():
        cache = memory_of(model, model(tokens, use_cache=True))
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    heads, head_dim = model.config.num_key_value_heads, 8
    assert held == tokens.numel() * 2 * 2 * heads * (head_dim // 2 + 4)


def _note(seen: dict[str, Tensor], name: str, rows: Callable[..., Tensor], states: Tensor, kind: str) -> Tensor:
    result = rows(states, kind)
    if kind == "k":
        seen[name] = result
    return result


def test_spikes_of_the_cache_are_counted(converted: Fixture) -> None:
    loaded = load_checkpoint(converted("llama", kv_bits=4), device="cpu")
    seen: dict[str, Tensor] = {}
    for name, code in attention_codes(loaded.model).items():
        note = functools.partial(_note, seen, name, code.rows)
        code.rows = note  # type: ignore[method-assign]
    with modules_only(loaded.model):
        report = firing_report(record_text(loaded.model, loaded.tokenizer, "Four score and seven"))
    counts = torch.stack([ops.unpack_rows(rows, 8, ops.RowSettings(4, 8))[0] for rows in seen.values()]).short()
    keys_report, values_report = report.cache["k"], report.cache["v"]
    assert keys_report.mean_count == counts.abs().sum().item() / counts.numel()
    assert keys_report.zero_share == (counts == 0).sum().item() / counts.numel()
    assert keys_report.bytes_per_token == values_report.bytes_per_token == 2 * 3 * (4 + 4)
    assert keys_report.bfloat16_bytes_per_token == 2 * 3 * 16
    assert 0 < values_report.firing_rate < 1
    tokens = report.total.tokens
    macs = tokens**2 * 2 * 9 * 8  # layers, heads, head_dim
    assert keys_report.macs == values_report.macs == macs and "attention" not in report.total.float_macs
    assert keys_report.accumulations == macs * keys_report.mean_count and keys_report.scalings == macs // 8


def test_verify_looks_at_the_cache(transformer: str, converted: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_checkpoint(converted(transformer, kv_bits=4, kv_range="asymmetric"), device="cpu")
    result = verify(loaded, "Four score and seven", source=False)
    heads = loaded.model.config.num_key_value_heads
    assert result.clean and result.rows == 2 * 2 * heads * result.tokens
    assert result.attention_error is not None and 0 < result.attention_error < 2e-5
    attend = ops.attend

    def wrong(*arguments: Any) -> Tensor:
        return attend(*arguments) * (1.001 if arguments[-1] == "unfold" else 1)

    monkeypatch.setattr(ops, "attend", wrong)
    assert not verify(loaded, "Four score and seven", source=False).clean
    monkeypatch.setattr(ops, "attend", attend)
    encode_rows = ops.encode_rows

    def off_by_one(*arguments: Any) -> Any:
        rows, histogram = encode_rows(*arguments)
        return rows ^ 1, histogram

    monkeypatch.setattr(ops, "encode_rows", off_by_one)
    found = verify(loaded, "Four score and seven", source=False)
    assert len(found.different_rows) == 4 and not found.clean


def test_every_code_gives_the_same_attention(converted: Fixture, tokens: Tensor) -> None:
    """The rows are the same bytes, and unfolded they give the same sums, within what `verify` allows."""
    plain = load(converted("llama", **EXACT, kv_bits=4))
    expected = whole(plain, tokens)
    for code in (
        {"kv_code": "binary"},
        {"kv_code": "signed-digit"},
        {"kv_code": "ramp"},
        {"kv_code": "ramp", "kv_slots": 4},
    ):
        loaded = load_checkpoint(converted("llama", **EXACT, kv_bits=4, **code), device="cpu")
        assert torch.equal(whole(loaded.model, tokens), expected)
        result = verify(loaded, "Four score and seven", source=False)
        assert result.clean and result.attention_error is not None and 0 < result.attention_error < 2e-5


def test_a_wrong_code_of_the_cache_is_seen(converted: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_checkpoint(converted("llama", kv_bits=4, kv_code="ramp"), device="cpu")
    digits = Ramp.digits
    monkeypatch.setattr(Ramp, "digits", lambda self, largest: digits(self, largest).roll(1, 0))
    found = verify(loaded, "Four score and seven", source=False)
    assert not found.clean and (found.attention_error or 0) > 1e-3


@pytest.mark.parametrize("other", [{"kv_bits": 5}, {"kv_bits": 4, "kv_range": "asymmetric"}, {}])
def test_another_model_s_cache_is_refused(other: dict[str, Any], converted: Fixture, tokens: Tensor) -> None:
    model, stranger = load(converted("llama", **EXACT, kv_bits=4)), load(converted("llama", **EXACT, **other))
    with torch.no_grad():
        cache = memory_of(stranger, stranger(tokens, use_cache=True))
        with pytest.raises(SpikeconvError, match="The cache holds"):
            model(tokens, **{memory_keyword(model): cache})


def test_an_empty_cache_of_any_making_is_taken(converted: Fixture, tokens: Tensor) -> None:
    model = load(converted("llama", **EXACT, kv_bits=4))
    for cache in (DynamicCache(), DynamicCache(config=model.config)):
        with torch.no_grad():
            logits = model(tokens, **{memory_keyword(model): cache}).logits
        torch.testing.assert_close(logits, whole(model, tokens), rtol=0, atol=BOUND)
        assert cache.get_seq_length() == tokens.shape[1]


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("rwkv6", {"kv_bits": 4}, "Rwkv6ForCausalLM has no keys and values"),
        ("llama", {"kv_bits": 4, "kv_group": 3}, "kv_group 3 does not divide head_dim 8"),
        ("llama", {"kv_bits": 9}, "kv.bits: must be less than or equal to 8, not 9"),
        ("llama", {"kv_steps": 9}, "steps with ternary spikes must be one of"),
    ],
)
def test_impossible_settings(family: str, settings: dict[str, Any], words: str, tiny_checkpoint: Fixture) -> None:
    with pytest.raises(SpikeconvError, match=words):
        make_plan(HfSource(tiny_checkpoint(family)), SpikeConfig.parse(settings))


def test_steps_stand_for_bits() -> None:
    assert SpikeConfig.parse({"kv_steps": 16}).kv == KvSettings(bits=5)
    assert SpikeConfig.parse({"kv_steps": 15, "kv_range": "asymmetric"}).kv == KvSettings(bits=4, range="asymmetric")
    assert SpikeConfig.parse({}).kv is None
