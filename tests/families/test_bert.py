"""BERT encoders: converted, loaded, proved and compared like causal models, but for what only those have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import spikeconv
from spikeconv.calibrate.windows import Calibration
from spikeconv.checkpoint.folder import read_record
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.data.labelled import Labelled, collate
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.generate import generate_text
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.evaluate.similarity import sentence_vectors, similarity
from spikeconv.families import FAMILIES
from spikeconv.record.text import record_text
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify_model

Fixture = Callable[..., Any]

SENTENCES = ("a spike is cheap", "a spike costs little", "nobody reads this", "1, 2, 3", "and so on and so on")


@pytest.fixture
def source(tiny_checkpoint: Fixture) -> HfSource:
    return HfSource(tiny_checkpoint("bert"))


def made(source: HfSource, path: Path, **settings: Any) -> Path:
    plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=Calibration(calibration_tokens=256))
    convert(source, plan, path, dtype=torch.float32)
    return path


def test_what_stands_in_front_of_each_linear() -> None:
    layout = FAMILIES["bert"].layout(SimpleNamespace(num_hidden_layers=2, architectures=["BertModel"]))
    centers = {linear.name: linear.center for linear in layout}
    for name in ("query", "key", "value"):
        assert centers[f"encoder.layer.0.attention.self.{name}"] == "embeddings.LayerNorm"
        assert centers[f"encoder.layer.1.attention.self.{name}"] == "encoder.layer.0.output.LayerNorm"
    assert centers["encoder.layer.1.intermediate.dense"] == "encoder.layer.1.attention.output.LayerNorm"
    assert centers["encoder.layer.1.output.dense"] is None and len(layout) == 12


def test_nothing_but_rounding_changes_the_states(source: HfSource, tmp_path: Path) -> None:
    """Rotated, centred and balanced with float weights and inputs it is the model that it was."""
    model = AutoModel.from_pretrained(source.path).eval()
    ids = torch.randint(256, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).last_hidden_state
        for index, settings in enumerate(({}, {"rotation": "none"}, {"balance": "sqrt"})):
            path = made(source, tmp_path / str(index), bits="16-16", **settings)
            found = AutoModel.from_pretrained(path).eval()(ids, attention_mask=mask).last_hidden_state
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), settings


def test_checkpoints_are_proved_against_their_source(source: HfSource, tmp_path: Path) -> None:
    fine = {"bits": "8-1.58", "balance": "sqrt", "count_scale": "rms"}
    for index, settings in enumerate(({"bits": "4-1.58"}, {"codec": "gif", "bits": "4-4"}, fine)):
        path = made(source, tmp_path / str(index), **settings)
        loaded = load_checkpoint(path, device="cpu")
        found = verify_model(loaded.model, torch.arange(1, 17)[None], path)
        assert found.clean and found.linears == 12 and found.source_reader == "transformers", found
        bias = "encoder.layer.1.intermediate.dense.bias"
        assert not torch.equal(loaded.model.get_parameter(bias), source.load(bias))  # W c is in it
        record = record_text(loaded.model, loaded.tokenizer, "some text " * 30, tokens=200)
        assert {layer.role for layer in record.layers} == {"q", "k", "v", "o", "up", "down"}
        assert max(record.sequences) <= 64  # what the model holds


def test_sentence_vectors(source: HfSource, tmp_path: Path) -> None:
    """Means over the tokens of a sentence, whatever it is padded with; eight bits keep them."""
    path = made(source, tmp_path / "out", bits="8-8")
    loaded = load_checkpoint(path, device="cpu")
    vectors = sentence_vectors(loaded, SENTENCES)
    alone = torch.cat([sentence_vectors(loaded, (sentence, sentence))[:1] for sentence in SENTENCES])
    torch.testing.assert_close(vectors, alone, rtol=0, atol=1e-5)
    tokenizer, model = AutoTokenizer.from_pretrained(source.path), AutoModel.from_pretrained(source.path).eval()
    with torch.no_grad():
        mean = model(**tokenizer(SENTENCES[0], return_tensors="pt")).last_hidden_state[0].mean(0)
    expected = sentence_vectors(load_float(source, device="cpu"), SENTENCES)
    torch.testing.assert_close(expected[0], mean / mean.norm(), rtol=0, atol=1e-5)
    found = similarity(vectors, expected)
    assert (found.sentences, found.pairs > 0.99, found.least > 0.99) == (5, True, True)
    assert found.least <= found.mean <= 1 + 1e-6
    turned = similarity(-vectors, expected)  # pairs stay as near as they were, vectors do not
    assert turned.mean == pytest.approx(-found.mean) and turned.pairs == pytest.approx(found.pairs)


def test_what_an_encoder_cannot_do_is_said(source: HfSource, tmp_path: Path, tiny_checkpoint: Fixture) -> None:
    loaded = load_checkpoint(made(source, tmp_path / "out"), device="cpu")
    for measure in (lambda: perplexity(loaded, "text " * 200, window=16), lambda: generate_text(loaded, "text")):
        with pytest.raises(SpikeconvError, match=r"encoder.*spikeconv similarity"):
            measure()
    foreign = SimpleNamespace(input_ids=[[1, 999], [1]])
    for measure in (
        lambda: sentence_vectors(replace(loaded, tokenizer=lambda *_, **__: vars(foreign)), SENTENCES[:2]),
        lambda: record_text(loaded.model, lambda *_, **__: {"input_ids": [1, 999]}, "text"),
        lambda: collate(replace(loaded, tokenizer=lambda *_, **__: vars(foreign)), [Labelled(("a",), 0)] * 2),
    ):
        with pytest.raises(SpikeconvError, match=r"token 999, but the model has tokens 0 to 257.*belong together"):
            measure()
    with pytest.raises(SpikeconvError, match="spikeconv perplexity"):
        sentence_vectors(load_float(HfSource(tiny_checkpoint("llama")), device="cpu"), SENTENCES)
    for settings, words in (
        ({"weights": "gptq"}, "can only be rtn"),
        ({"rotation": "quarot"}, "norms stand behind"),
        ({"kv_bits": 4}, "no keys and values"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            made(source, tmp_path / "no", **settings)


def test_in_memory(source: HfSource) -> None:
    model = spikeconv.convert(AutoModel.from_pretrained(source.path).eval(), bits="8-8")
    ids = torch.randint(256, (2, 12))
    with torch.no_grad(), spikeconv.record_spikes(model) as spikes:
        model(ids)
    assert len(spikes) == 12


def test_heads_stay_and_names_find_each_other(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """A masked language model and a classifier convert as what they are; either loads as the encoder below its head."""
    for auto, head in ((AutoModelForMaskedLM, "cls"), (AutoModelForSequenceClassification, "classifier")):
        model = auto.from_pretrained(tiny_checkpoint("bert")).eval()
        folder = tmp_path / head
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_checkpoint("bert")).save_pretrained(folder)
        opened = HfSource(folder)
        ids = torch.randint(256, (2, 12))
        for index, settings in enumerate(({"bits": "16-16", "balance": "sqrt"}, {"codec": "elastic"})):
            path = made(opened, tmp_path / f"{head}{index}", **settings)
            loaded = load_checkpoint(path, device="cpu")
            assert type(loaded.model) is type(model)
            found = verify_model(loaded.model, ids[:1], path)
            assert found.clean and found.linears == 12, found
            with torch.no_grad():
                logits, expected = loaded.model(ids).logits, model(ids).logits
                pooled = {} if head == "classifier" else {"add_pooling_layer": False}
                below = AutoModel.from_pretrained(path, **pooled).eval()(ids).last_hidden_state
                inside = loaded.model.bert(ids).last_hidden_state
            assert torch.equal(below, inside)
            if index == 0:
                assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
        record = read_record(path)
        assert head in record["skipped"] and not {"cls", "classifier"} - {head} & set(record["skipped"])
        weights = load_file(path / "model.safetensors")
        lost = next(name for name in weights if name.startswith(f"{head}."))
        tensor = weights.pop(lost)
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        with pytest.raises(SpikeconvError, match=rf"lacks {lost}"):
            load_checkpoint(path, device="cpu")
        assert tensor.numel()
    encoder = made(HfSource(tiny_checkpoint("bert")), tmp_path / "encoder")
    grown = AutoModelForSequenceClassification.from_pretrained(encoder)  # a new head, which training is for
    assert grown.classifier.weight.isfinite().all()
