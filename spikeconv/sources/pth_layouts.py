"""What the RWKV authors' tensors are called and shaped in transformers' models, and the config that their sizes tell.

The authors write `blocks.3.att.time_mix_k`; which version a file is follows from the names alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ARCHITECTURES", "LAYOUTS", "Layout", "check_arch", "find_version"]

Shapes = Mapping[str, tuple[int, ...]]
ENWIK8 = 77
"""Vocabulary for which SpikeGPT's released code makes the embedding binary."""
FLAT, ROW = (-1,), (1, 1, -1)
COMMON = (
    r"emb\.weight|head\.weight|ln_out\.(weight|bias)|blocks\.0\.ln0\.(weight|bias)|blocks\.\d+\.ln[12]\.(weight|bias)"
)


@dataclass(frozen=True)
class Layout:
    """One version of RWKV.

    Attributes:
        architecture: transformers' model.
        sizes: the fields of `config.json` that shapes tell.
        tensors: pattern of the authors' names in a layer.
        words: what transformers calls a part of a name; `att.key` is a `key` after `att` and goes before `key`.
        shapes: by pattern of name, the shape in transformers; other tensors keep theirs.
        transposed: pattern of the names of tensors that transformers keeps transposed.
        unused: pattern of the names of tensors that files hold and no model reads.
        fields: the other fields of `config.json`.
    """

    architecture: str
    sizes: Callable[[Shapes], dict[str, Any]]
    tensors: str
    words: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    transposed: str = r"(?!)"
    unused: str = r"(?!)"
    fields: Mapping[str, Any] = field(default_factory=dict)

    def unknown(self, keys: list[str]) -> list[str]:
        """Those of the names in a file that the version does not have."""
        known = re.compile(rf"{COMMON}|blocks\.\d+\.({self.tensors})|{self.unused}")
        return [key for key in keys if not known.fullmatch(key)]

    def name(self, key: str) -> str | None:
        """transformers' name of a tensor; None if no model reads it."""
        if re.fullmatch(self.unused, key):
            return None
        words = key.split(".")
        pairs = zip(["", *words], words, strict=False)
        return ".".join(self.words.get(f"{before}.{word}", self.words.get(word, word)) for before, word in pairs)

    def arrange(self, key: str, tensor: "Tensor") -> "Tensor":
        """A view of a tensor with transformers' shape."""
        if tensor.dim() == 2 and re.search(self.transposed, key):
            return tensor.t()
        return next((tensor.reshape(shape) for end, shape in self.shapes.items() if re.search(end, key)), tensor)

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """`config.json`, but for the dtype.

        Raises:
            KeyError: the file lacks a tensor.
            IndexError: a tensor has too few dimensions.
        """
        layers = {int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")}
        return {
            "architectures": [self.architecture],
            **self.fields,
            "vocab_size": shapes["emb.weight"][0],
            "hidden_size": shapes["emb.weight"][1],
            "num_hidden_layers": max(layers) + 1,
            "attention_hidden_size": shapes["blocks.0.att.key.weight"][0],
            "intermediate_size": shapes["blocks.0.ffn.key.weight"][0],
            **self.sizes(shapes),
            "bos_token_id": 0,
            "eos_token_id": 0,
            "tie_word_embeddings": False,
        }


def find_version(shapes: Shapes) -> str:
    """The version of RWKV that tensors are of; "" if it is none known here, supported or not."""
    block = {key.removeprefix("blocks.0."): shape for key, shape in shapes.items() if key.startswith("blocks.0.")}
    decay = block.get("att.time_decay", ())
    if "att.r_k" in block:
        return "7"
    if "att.time_maa_x" in block:
        return "6"
    if "att.ln_x.weight" in block:
        if len(decay) > 1 and decay[1] > 1:
            return "5.2"
        return "5.1" if "att.gate.weight" in block else "5"
    return "4" if "att.time_mix_k" in block and len(decay) == 1 else ""


def _sizes6(shapes: Shapes) -> dict[str, Any]:
    return {
        "head_size": shapes["blocks.0.att.time_faaaa"][1],
        "time_mix_extra_dim": shapes["blocks.0.att.time_maa_w2"][1],
        "time_decay_extra_dim": shapes["blocks.0.att.time_decay_w2"][0],
    }


def _sizes7(shapes: Shapes) -> dict[str, Any]:
    ranks = {"decay": "w", "gate": "g", "a": "a"}
    return {
        "num_heads": shapes["blocks.0.att.r_k"][-2],
        "head_dim": shapes["blocks.0.att.r_k"][-1],
        "hidden_ratio": shapes["blocks.0.ffn.key.weight"][0] / shapes["emb.weight"][1],
        **{f"{name}_low_rank_dim": shapes[f"blocks.0.att.{letter}1"][1] for name, letter in ranks.items()},
        # The first layer has no value of a layer before to mix in; a model of one layer has no such rank.
        **({"v_low_rank_dim": shapes["blocks.1.att.v1"][1]} if "blocks.1.att.v1" in shapes else {}),
    }


_NAMES = {"emb": "rwkv.embeddings", "blocks": "rwkv.blocks", "ln_out": "rwkv.ln_out"}
_NAMES |= {"ln0": "pre_ln", "att": "attention", "ffn": "feed_forward"}
_MIXES = {f"time_mix_{name[0]}": f"time_mix_{name}" for name in ("key", "value", "receptance")}
_LOW_RANK = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}

_RWKV4 = Layout(
    architecture="RwkvForCausalLM",
    # The length the model was trained for is not in the file, and a recurrent model does not depend on it.
    fields={"model_type": "rwkv", "context_length": 1024, "layer_norm_epsilon": 1e-5, "rescale_every": 0},
    sizes=lambda shapes: {},
    tensors=r"att\.(time_(decay|first|mix_[kvr])|(key|value|receptance|output)\.weight)|"
    r"ffn\.(time_mix_[kr]|(key|value|receptance)\.weight)",
    words={**_NAMES, **_MIXES},
    shapes={r"\.time_(decay|first)$": FLAT, r"\.time_mix_.$": ROW},
)

LAYOUTS = {
    "4": _RWKV4,
    "6": Layout(
        architecture="Rwkv6ForCausalLM",
        fields={"model_type": "rwkv6", "head_size_divisor": 8, "layer_norm_epsilon": 1e-5},
        sizes=_sizes6,
        tensors=r"att\.(time_(maa_([xwkvrg]|w1|w2)|decay|decay_w1|decay_w2|faaaa)|ln_x\.(weight|bias)|"
        r"(key|value|receptance|gate|output)\.weight)|ffn\.(time_maa_[kr]|(key|value|receptance)\.weight)",
        words=_NAMES,
        shapes={r"\.time_(decay|maa_.)$": ROW},
    ),
    "7": Layout(
        architecture="RWKV7ForCausalLM",
        fields={"model_type": "rwkv7", "norm_eps": 1e-5, "norm_bias": True, "pad_token_id": 0},
        sizes=_sizes7,
        tensors=r"att\.(x_[rwkvag]|[wavg][12]|[wav]0|k_k|k_a|r_k|ln_x\.(weight|bias)|"
        r"(key|value|receptance|output)\.weight)|ffn\.(x_k|(key|value)\.weight)",
        words={
            **{"emb": "model.embeddings", "blocks": "model.layers", "ln_out": "model.norm", "head": "lm_head"},
            **{"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att": "attn", "ln_x": "g_norm"},
            **{f"att.{name}": f"{name[0]}_proj" for name in ("receptance", "key", "value", "output")},
            **{f"{x}{i}": f"{x}_lora.lora.{place}" for x in "wavg" for i, place in _LOW_RANK.items()},
        },
        shapes={r"\.att\.x_.$": ROW, r"\.att\.(k_.|.0)$|\.ffn\.x_k$": FLAT},
        transposed=r"\.att\.[wavg][12]$",
        unused=r"blocks\.0\.att\.v[012]",
    ),
}
"""The versions that can be converted."""

_SPIKEGPT = replace(
    _RWKV4,
    architecture="SpikeGptForCausalLM",
    fields={"model_type": "spikegpt", "context_length": 1024, "layer_norm_epsilon": 1e-5},
    # The rule of the released code; the paper's 46 M model is binary with a larger vocabulary.
    sizes=lambda shapes: {"binary_embedding": shapes["emb.weight"][0] == ENWIK8},
)

ARCHITECTURES = {
    "spikegpt": _SPIKEGPT,
    "spikegpt-binary": replace(_SPIKEGPT, sizes=lambda shapes: {"binary_embedding": True}),
    "spikegpt-b": replace(_SPIKEGPT, fields={**_SPIKEGPT.fields, "lif_in_ffn": True}),
}
"""Models whose files have the names of RWKV-4's, so that somebody has to say so; by what `--arch` calls them."""


def check_arch(source: object, arch: str | None) -> None:
    """Check what is said that a source holds, if it is said.

    Raises:
        SpikeconvError: it is none of `ARCHITECTURES`, or the source is no `.pth` file, which alone does not tell.
    """
    if arch is None:
        return
    if not str(source).lower().endswith(".pth"):
        raise SpikeconvError(f"{source} says itself what it holds; --arch is for .pth files.")
    if arch not in ARCHITECTURES:
        hint = did_you_mean(arch, list(ARCHITECTURES))
        raise SpikeconvError(f"--arch {arch} is unknown.{hint} There are {', '.join(ARCHITECTURES)}.")
