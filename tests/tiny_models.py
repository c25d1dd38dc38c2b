"""Tiny models of every family, with a tokenizer of bytes."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

__all__ = ["ENCODERS", "FAMILIES", "TRANSFORMERS", "save_model"]

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 100,
        "tie_word_embeddings": True,
    },
    "mistral": {  # 90 has no Hadamard matrix: blocks of 2
        "hidden_size": 96,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "intermediate_size": 90,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "hidden_size": 56,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 76,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_size": 60,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "head_dim": 8,  # not 60 / 15
        "intermediate_size": 92,
        "tie_word_embeddings": False,
    },
    "rwkv": {"hidden_size": 72, "intermediate_size": 100},
    "rwkv6": {
        "hidden_size": 72,
        "head_size": 8,
        "intermediate_size": 100,
        "time_mix_extra_dim": 4,
        "time_decay_extra_dim": 6,
    },
    "spikegpt": {"hidden_size": 72, "intermediate_size": 100},
    "rwkv7": {
        "hidden_size": 72,
        "head_dim": 8,
        "intermediate_size": 100,
        "decay_low_rank_dim": 6,
        "gate_low_rank_dim": 10,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 4,
    },
}


TRANSFORMERS = [name for name in FAMILIES if name != "spikegpt" and not name.startswith("rwkv")]
"""Families with attention over keys and values."""


ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 72, "num_attention_heads": 9, "intermediate_size": 100},
    "bart": {
        "d_model": 72,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 9,
        "decoder_attention_heads": 9,
        "encoder_ffn_dim": 100,
        "decoder_ffn_dim": 60,
        "scale_embedding": True,
        "init_std": 0.1,
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 1,
    },
}
"""Families that predict no next token."""


def save_model(family: str, overrides: dict[str, Any], path: Path) -> None:
    """Save a float checkpoint of random weights, in which every parameter matters."""
    tokenizer = _tokenizer()
    fields = {"num_hidden_layers": 2, "max_position_embeddings": 64, "initializer_range": 0.1, "dtype": "float32"}
    if family == "bart":  # which calls them something else, once for each half
        fields = {"max_position_embeddings": 64, "dtype": "float32"}
    config = AutoConfig.for_model(
        family,
        **{**fields, **(FAMILIES | ENCODERS)[family], "vocab_size": len(tokenizer), **overrides},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(len(family))
    auto = {"bert": AutoModel, "bart": AutoModelForSeq2SeqLM}.get(family, AutoModelForCausalLM)
    model = auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5)
            elif "norm" in name.lower() or ".ln" in name or "pre_ln" in name:
                parameter.normal_(1, 0.4)
            elif not parameter.any() or "time_" in name or "lora" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if family == "spikegpt" and name.endswith(("attention.output.weight", "feed_forward.value.weight")):
                parameter.mul_(10)  # so that neurons fire
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
