"""A GGUF file is the checkpoint it was made from: the writer here follows llama.cpp's `convert_hf_to_gguf.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from spikeconv.config import SpikeConfig
from spikeconv.conversion.pipeline import convert
from spikeconv.conversion.plan import make_plan
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.models import load_checkpoint
from spikeconv.sources.gguf import GgufSource
from spikeconv.verification.run import verify

Fixture = Callable[..., Any]
SIZES = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    base, _, suffix = name.rpartition(".")
    if base.startswith("model.layers."):
        _, _, layer, module = base.split(".", 3)
        return f"blk.{layer}.{NAMES[module]}.{suffix}"
    return f"{NAMES[base]}.{suffix}"


def permuted(rows: Tensor, heads: int) -> Tensor:
    """llama.cpp's `LlamaModel.permute`."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    source: Path, path: Path, quantize: bool = False, drop: str = "", rope_factors: list[float] | None = None
) -> None:
    config = json.loads((source / "config.json").read_text())
    architecture, heads, kv = config["model_type"], config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    vocabulary = {**AutoTokenizer.from_pretrained(source).get_vocab()}
    vocabulary["aa"] = len(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in sorted(vocabulary, key=vocabulary.get)])
    writer.add_token_merges(["a a"])  # llama.cpp wants a merge
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])
    for name, tensor in load_file(source / "model.safetensors").items():
        if name == drop:
            continue
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permuted(tensor, heads if "q_proj" in name else kv)
        values = tensor.numpy()
        if quantize and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    if rope_factors:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def source(request: pytest.FixtureRequest, tiny_checkpoint: Fixture) -> Path:
    return Path(tiny_checkpoint(request.param, **SIZES))


def test_tensors_are_the_originals(source: Path, tmp_path: Path) -> None:
    write_gguf(source, tmp_path / "model.gguf")
    opened, originals = GgufSource(tmp_path / "model.gguf"), load_file(source / "model.safetensors")
    assert set(opened.names()) == set(originals)
    for name, tensor in originals.items():
        assert opened.shape(name) == tuple(tensor.shape) and opened.dtype(name) == torch.float32
        assert torch.equal(opened.load(name), tensor), name


def test_q8_is_within_half_a_step(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", **SIZES)
    write_gguf(source, tmp_path / "model.gguf", quantize=True)
    opened = GgufSource(tmp_path / "model.gguf")
    for name, tensor in load_file(source / "model.safetensors").items():
        values = opened.load(name)
        if tensor.ndim == 1:
            assert torch.equal(values, tensor)
            continue
        blocks = tensor.view(-1, 32)  # Q8_0: one float16 scale, max/127, for 32 weights
        bound = blocks.abs().amax(1, keepdim=True) / 127 * 0.5 + blocks.abs() * 2**-10
        assert ((values.view(-1, 32) - blocks).abs() <= bound).all(), name
        assert not torch.equal(values, tensor)


def test_converts_to_the_same_model(source: Path, run_convert: Fixture, logits_of: Fixture, tmp_path: Path) -> None:
    write_gguf(source, tmp_path / "model.gguf")
    opened, config = GgufSource(tmp_path / "model.gguf"), SpikeConfig()
    convert(opened, make_plan(opened, config), tmp_path / "gguf")
    run_convert(source, tmp_path / "hf")
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("gguf", "hf"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert torch.equal(logits_of(tmp_path / "gguf"), logits_of(tmp_path / "hf"))
    result = verify(load_checkpoint(tmp_path / "gguf"), "spikes", tokens=4)
    assert result.clean and result.source_reader == "transformers", result
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / d) for d in ("gguf", "hf")]
    assert tokenizers[0]("spikes")["input_ids"][-6:] == tokenizers[1]("spikes")["input_ids"]


def test_a_depth_that_is_the_default_of_the_config(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """transformers leaves values equal to its defaults out of a config: LLaMA's 32 layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    write_gguf(tiny_checkpoint("llama", **sizes, num_hidden_layers=32), tmp_path / "model.gguf")
    plan = make_plan(GgufSource(tmp_path / "model.gguf"), SpikeConfig())
    assert len(plan.jobs) == 32 * 7


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, b"not gguf at all" * 9])
def test_bad_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(SpikeconvError, match=r"model\.gguf is not a readable GGUF file"):
        GgufSource(tmp_path / "model.gguf")


def test_truncated_file(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(SpikeconvError, match=r"model\.gguf is not a readable GGUF file"):
        GgufSource(tmp_path / "model.gguf")


def test_missing_tensor(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tiny_checkpoint("llama", **SIZES), tmp_path / "model.gguf", drop=name)
    with pytest.raises(SpikeconvError, match=rf"no tensor for {name}.*blk\.1\.ffn_up\.weight"):
        GgufSource(tmp_path / "model.gguf")


def test_scaled_rotary_frequencies_are_not_forgotten(tiny_checkpoint: Fixture, tmp_path: Path) -> None:
    """LLaMA 3.1 files carry the factors as a tensor, which transformers does not read."""
    source = tiny_checkpoint("llama", **SIZES)
    write_gguf(source, tmp_path / "plain.gguf", rope_factors=[1.0] * 8)
    GgufSource(tmp_path / "plain.gguf")
    write_gguf(source, tmp_path / "scaled.gguf", rope_factors=[1.0] * 4 + [32.0] * 4)
    with pytest.raises(SpikeconvError, match=r"scaled\.gguf scales its rotary frequencies"):
        GgufSource(tmp_path / "scaled.gguf")


def test_other_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SpikeconvError, match=r"architecture mamba; supported: llama, qwen2, qwen3"):
        GgufSource(tmp_path / "model.gguf")
