import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from spikeconv.data import texts
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import LoadedModel
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.integrations.head import CHUNK

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def reference(loaded: LoadedModel, text: str) -> float:
    """Mean loss of one window, straight from the definition."""
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits
    return float(cross_entropy(logits[0, :-1].double(), ids[0, 1:]))


def test_uniform_logits_give_the_vocabulary_size(tiny: LoadedModel) -> None:
    torch.nn.init.zeros_(tiny.model.lm_head.weight)
    result = perplexity(tiny, TEXT, window=64)
    vocabulary = tiny.model.config.vocab_size
    assert result.perplexity == pytest.approx(vocabulary, rel=1e-4)
    assert result.bits_per_byte == pytest.approx(math.log2(vocabulary), rel=1e-4)  # one byte a token


@pytest.mark.parametrize("window", [2, CHUNK, CHUNK + 1, 600])
def test_one_window_equals_the_definition(tiny: LoadedModel, window: int) -> None:
    result = perplexity(tiny, TEXT[:window], window=window)
    assert math.log(result.perplexity) == pytest.approx(reference(tiny, TEXT[:window]), rel=1e-5)
    assert result.tokens == window - 1


def test_windows_do_not_overlap_and_the_partial_one_is_dropped(tiny: LoadedModel) -> None:
    window = 100
    result = perplexity(tiny, TEXT[:350], window=window)
    losses = [reference(tiny, TEXT[start : start + window]) for start in (0, 100, 200)]
    assert math.log(result.perplexity) == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert result.tokens == 3 * (window - 1)
    assert perplexity(tiny, TEXT, window=window, max_tokens=350).perplexity == result.perplexity


def test_scaled_logits_are_the_models_own(tiny: LoadedModel) -> None:
    """Families that scale logits after the output layer must not be measured without the scale."""
    plain = perplexity(tiny, TEXT, window=64).perplexity
    forward = tiny.model.forward

    def scaled(**kwargs: object) -> object:
        output = forward(**kwargs)
        output.logits = output.logits / 1e6
        return output

    tiny.model.forward = scaled
    result = perplexity(tiny, TEXT, window=64).perplexity
    assert result == pytest.approx(tiny.model.config.vocab_size, rel=1e-4)
    assert plain > 2 * result


def test_bytes_count_multibyte_characters(tiny: LoadedModel) -> None:
    torch.nn.init.zeros_(tiny.model.lm_head.weight)
    result = perplexity(tiny, "é" * 50, window=50)  # two tokens a character, two bytes a character
    assert result.tokens == 98
    assert result.bits_per_byte == pytest.approx(math.log2(tiny.model.config.vocab_size), rel=0.05)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "empty"),
        (" \n", {}, "empty"),
        (TEXT[:100], {"window": 101}, "100 tokens.*--window"),
        (TEXT, {"window": 5000}, "--window must be 2 to 4096.*5000"),
        (TEXT, {"window": 1}, "--window"),
        (TEXT, {"window": 64, "max_tokens": 63}, "--max-tokens 63"),
        (TEXT, {"window": 64, "max_tokens": -5}, "--max-tokens -5"),
    ],
)
def test_bad_input(tiny: LoadedModel, text: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(SpikeconvError, match=message):
        perplexity(tiny, text, **options)


def test_a_broken_model_is_named(tiny: LoadedModel) -> None:
    torch.nn.init.constant_(tiny.model.lm_head.weight, math.nan)
    with pytest.raises(SpikeconvError, match="tiny gives no usable probabilities"):
        perplexity(tiny, TEXT, window=64)


def test_text_files(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("naïve", encoding="utf-8")
    assert texts.read_text(file) == ("naïve", str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SpikeconvError, match="not UTF-8"):
        texts.read_text(file)
    with pytest.raises(SpikeconvError, match="No such file"):
        texts.read_text(tmp_path / "none.txt")
    with pytest.raises(SpikeconvError, match="not both"):
        texts.read_text(file, "c4")


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for dataset in ("wikitext2", "someone/has-no-such-text"):
        with pytest.raises(SpikeconvError, match=f"Could not load dataset {dataset} .*--text FILE"):
            texts.read_text(dataset=dataset)


@pytest.mark.slow
def test_default_text_is_prose() -> None:
    text, label = texts.read_text()
    assert label == "BoolQ validation passages"
    assert len(text) > 1_000_000
    assert "biomass" in text[:200]
