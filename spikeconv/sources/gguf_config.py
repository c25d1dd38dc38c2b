"""The config of the model in a GGUF file: transformers' reading of it, and what it leaves in the file.

What changes the model and cannot be said in a config (stretched or partial rotary embeddings, experts, scaled
residuals, …) is a reason to refuse the file.
"""

from typing import Any

import torch
from transformers import AutoConfig

from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.families import FAMILIES
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.gguf_file import GgufFile

__all__ = ["read_config"]

SIZES = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
NEUTRAL = {
    "rope.scaling.type": "none",
    "rope.scale_linear": 1.0,
    "expert_count": 0,
    "attention.scale": 0.0,
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 0.0,
    "residual_scale": 0.0,
    "embedding_scale": 0.0,
}
"""Keys that change a model in a way its config cannot say, with the value at which they do not."""


def read_config(file: GgufFile, architecture: str) -> dict[str, Any]:
    """`config.json` of the model in a file of that GGUF architecture.

    Raises:
        SpikeconvError: it lacks a size, transformers cannot read it, or the model is one that its config cannot say.
    """
    sizes = {name: file.number(f"{architecture}.{name}") or 0 for name in SIZES}
    for name, size in sizes.items():
        if size < 1:
            raise SpikeconvError(f"{file.path} holds no {architecture}.{name} above 0, which its model needs.")
    if sizes["block_count"] > len(file.tensors):
        raise SpikeconvError(f"{file.path} has {sizes['block_count']} layers, but {len(file.tensors)} tensors.")
    for key, neutral in NEUTRAL.items():
        if (found := file.value(f"{architecture}.{key}")) not in (None, neutral):
            raise SpikeconvError(
                f"{file.path} has {architecture}.{key} = {found}, which is lost with a GGUF file; convert the Hugging "
                "Face checkpoint of the model instead."
            )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(file.path.parent, gguf_file=file.path.name)
    except Exception as error:  # it trusts the file
        raise SpikeconvError(
            f"{file.path} does not describe a model that transformers knows: {reason_of(error)}"
        ) from error
    heads = sizes["attention.head_count"]
    config.num_key_value_heads = file.number(f"{architecture}.attention.head_count_kv") or heads
    config.head_dim = file.number(f"{architecture}.attention.key_length") or sizes["embedding_length"] // heads
    rotated = file.number(f"{architecture}.rope.dimension_count")
    if rotated not in (None, config.head_dim):
        raise SpikeconvError(f"{file.path} rotates {rotated} of the {config.head_dim} inputs of a head; not supported.")
    # transformers reads neither which biases there are, nor rows of padding, nor the other parts of a split file.
    if hasattr(config, "attention_bias"):
        config.attention_bias = "blk.0.attn_output.bias" in file.tensors
    if hasattr(config, "mlp_bias"):
        config.mlp_bias = "blk.0.ffn_down.bias" in file.tensors
    config.tie_word_embeddings = "output.weight" not in file.tensors
    if "token_embd.weight" in file.tensors:
        config.vocab_size = int(file.tensors["token_embd.weight"].shape[1])
    config.architectures = [FAMILIES[config.model_type].architecture]
    config.dtype = torch.float32
    return {key: value for key, value in config.to_diff_dict().items() if "name_or_path" not in key}
