"""Writes GGUF files as llama.cpp's `convert_hf_to_gguf.py` does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

__all__ = ["write_gguf"]

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
    source: Path,
    path: Path,
    *,
    quantize: bool = False,
    keep: Callable[[str], bool] = lambda name: True,
    rope_factors: list[float] | None = None,
    edit: Callable[[gguf.GGUFWriter], Any] = lambda writer: None,
) -> None:
    """Write a checkpoint as one file: the tensors that `keep` says, and the metadata that `edit` leaves."""
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
    edit(writer)
    for name, tensor in load_file(source / "model.safetensors").items():
        if not keep(name):
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
