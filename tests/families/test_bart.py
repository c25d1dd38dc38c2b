"""BART: two stacks, and attention from one to the other; converted, proved, and run token by token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.evaluate.similarity import sentence_vectors, similarity
from spikeconv.families import FAMILIES
from spikeconv.record.text import record_text
from spikeconv.sources.float_model import load_float
from spikeconv.sources.hf import HfSource
from spikeconv.verification.run import verify_model

Fixture = Callable[..., Any]

SETTINGS: tuple[dict[str, Any], ...] = (
    {"bits": "16-16", "balance": "sqrt"},
    {"bits": "4-1.58"},
    {"bits": "4-1", "balance": "sqrt"},
    {"codec": "gif", "bits": "4-4"},
    {"codec": "elastic", "bits": "4-1.58", "time_steps": 3},
)


def test_both_stacks_convert(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = HfSource(tiny_checkpoint("bart"))
    plain = load_float(source, device="cpu")
    ids = torch.randint(2, 256, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    for index, settings in enumerate(SETTINGS):
        path = tmp_path / str(index)
        plan = plan_conversion(source, SpikeConfig.parse(settings), calibration=Calibration(calibration_tokens=256))
        assert len(plan.jobs) == 2 * 6 + 3 * 10
        convert(source, plan, path, dtype=torch.float32)
        loaded = load_checkpoint(path, device="cpu")
        found = verify_model(loaded.model, ids[:1, :12], path)
        assert found.clean and found.linears == 42, (settings, found)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
        with torch.no_grad():
            logits, expected = (each(ids, attention_mask=mask).logits for each in (model, plain.model))
            written = [
                model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=use_cache)
                for use_cache in (True, False)
            ]
        assert torch.equal(*written)
        if index == 0:
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
            continue
        record = record_text(loaded.model, loaded.tokenizer, "some text " * 30, tokens=100)
        roles = {layer.role for layer in record.layers}
        assert roles == {*"qkvo", "up", "down", *(f"cross_{name}" for name in "qkvo")}
    vectors = [sentence_vectors(each, ("a spike", "two spikes", "none")) for each in (loaded, plain)]
    assert similarity(*vectors).sentences == 3


def test_what_stands_in_front_and_what_cannot_be(tiny_checkpoint: Fixture) -> None:
    source = HfSource(tiny_checkpoint("bart"))
    layout = {linear.name: linear for linear in make_plan(source, SpikeConfig()).layout}
    decoder = "model.decoder.layers.1"
    for name, center in (
        (f"{decoder}.self_attn.k_proj", "model.decoder.layers.0.final_layer_norm"),
        (f"{decoder}.encoder_attn.q_proj", f"{decoder}.self_attn_layer_norm"),
        (f"{decoder}.fc1", f"{decoder}.encoder_attn_layer_norm"),
        ("model.encoder.layers.0.self_attn.q_proj", "model.encoder.layernorm_embedding"),
        ("model.encoder.layers.1.fc1", "model.encoder.layers.1.self_attn_layer_norm"),
        (f"{decoder}.encoder_attn.v_proj", None),
    ):
        assert layout[name].center == center
    assert layout[f"{decoder}.encoder_attn.k_proj"].group == layout[f"{decoder}.encoder_attn.v_proj"].group
    assert [linear.layer for linear in layout.values()] == sorted(linear.layer for linear in layout.values())
    elastic = SpikeConfig.parse({"codec": "elastic"})
    fires = {role for role in FAMILIES["bart"].roles if elastic.outputs_of(role, elastic) == "neuron"}
    assert fires == {"k", "v", "cross_k", "cross_v"}
    for settings, words in (
        ({"weights": "gptq"}, "can only be rtn"),
        ({"rotation": "quarot"}, "norms stand behind"),
        ({"kv_bits": 4}, "no keys and values"),
    ):
        with pytest.raises(SpikeconvError, match=words):
            make_plan(source, SpikeConfig.parse(settings))
    source.config["decoder_layers"] = 10**6
    with pytest.raises(SpikeconvError, match=r"1000000 layers \(decoder_layers\)"):
        make_plan(source, SpikeConfig())
