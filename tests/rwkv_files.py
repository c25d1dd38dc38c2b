"""Tiny random RWKV models, and the `.pth` files that the authors would have published them as."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, RwkvConfig, RwkvForCausalLM

from spikeconv.models.rwkv6 import Rwkv6Config, Rwkv6ForCausalLM
from spikeconv.models.spikegpt import SpikeGptConfig, SpikeGptForCausalLM

RENAMED: dict[str, dict[str, str]] = {
    "4": {
        r"^rwkv\.": "",
        "embeddings": "emb",
        "pre_ln": "ln0",
        "attention": "att",
        "feed_forward": "ffn",
        "mix_key": "mix_k",
        "mix_value": "mix_v",
        "mix_receptance": "mix_r",
    },
    "6": {r"^rwkv\.": "", "embeddings": "emb", "pre_ln": "ln0", "attention": "att", "feed_forward": "ffn"},
    "7": {
        r"^model\.layers": "blocks",
        r"^model\.embeddings": "emb",
        r"^model\.norm": "ln_out",
        "lm_head": "head",
        "pre_norm": "ln0",
        "attn_norm": "ln1",
        "ffn_norm": "ln2",
        r"attn\.": "att.",
        "r_proj": "receptance",
        "k_proj": "key",
        "v_proj": "value",
        "o_proj": "output",
        "g_norm": "ln_x",
        r"_lora\.lora\.0\.weight": "1",
        r"_lora\.lora\.2\.weight": "2",
        r"_lora\.lora\.2\.bias": "0",
    },
}
RENAMED["spikegpt"] = RENAMED["4"]
"""Patterns in the names of transformers' models, and what the authors write there."""
ROWS = r"att\.(k_k|k_a|[wav]0)$|ffn\.x_k$"
"""Vectors that the authors keep as [1, 1, n] and RWKV-7's class as [n]."""


def make_model(version: str, **sizes: Any) -> PreTrainedModel:
    """A model in which every parameter matters: norms are random, and no low-rank part or output is zero."""
    sizes = {"vocab_size": 256, "hidden_size": 192, "num_hidden_layers": 3, "intermediate_size": 224, **sizes}
    if version == "4":
        model = RwkvForCausalLM(RwkvConfig(**sizes, rescale_every=0))
    elif version == "spikegpt":
        model = SpikeGptForCausalLM(SpikeGptConfig(**sizes))
    elif version == "6":
        ranks = {"time_mix_extra_dim": 8, "time_decay_extra_dim": 16}
        model = Rwkv6ForCausalLM(Rwkv6Config(**{"head_size": 32, **ranks, **sizes}))
    else:
        from rwkv7_hf import RWKV7Config, RWKV7ForCausalLM

        ranks = {"decay_low_rank_dim": 8, "gate_low_rank_dim": 12, "a_low_rank_dim": 16, "v_low_rank_dim": 20}
        model = RWKV7ForCausalLM(RWKV7Config(**{"head_dim": 64, **ranks, **sizes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _randomize(name, parameter)
            if version == "spikegpt" and re.search(r"output\.weight|feed_forward\.value\.weight", name):
                parameter.mul_(6)  # so that neurons fire
    return model.eval()


def _randomize(name: str, parameter: nn.Parameter) -> None:
    if re.search(r"(ln|norm)\w*\.weight", name):
        parameter.normal_(1, 0.3)
    elif re.search(r"time_mix|time_maa_\w$|\.x_\w$|k_k|k_a", name):
        parameter.uniform_(0.1, 0.9)
    elif re.search(r"time_decay$", name):
        parameter.uniform_(-4, 0)
    elif parameter.dim() == 1 or "time_f" in name or name.endswith("r_k"):
        parameter.normal_(0, 0.5)
    elif "embeddings" in name:
        parameter.normal_()
    else:
        # Layers add up; the logits stay between 1 and 5.
        parameter.normal_(0, (0.5 if "value" in name or "output" in name else 1) / parameter.shape[-1] ** 0.5)


def authors_tensors(model: PreTrainedModel, version: str) -> dict[str, Tensor]:
    """The weights under the authors' names, in their shapes."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        for pattern, word in RENAMED[version].items():
            name = re.sub(pattern, word, name)
        if re.search(r"att\.[wavg][12]$", name):
            tensor = tensor.t()
        elif version == "7" and re.search(ROWS, name):
            tensor = tensor.view(1, 1, -1)
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    if version == "7":  # what the authors' files hold, and no model reads
        for i in "012":
            tensors[f"blocks.0.att.v{i}"] = torch.full_like(tensors[f"blocks.1.att.v{i}"], torch.nan)
    return tensors


def write_pth(path: Path, model: PreTrainedModel, version: str, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model as the authors would."""
    torch.save({name: tensor.to(dtype) for name, tensor in authors_tensors(model, version).items()}, path)
    return path
