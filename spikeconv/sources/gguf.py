"""A GGUF file as a source: each tensor is dequantized when it is read, so memory stays bounded.

llama.cpp stores the q and k rows of LLaMA models in the order its rotary embedding wants (pairs interleaved); they are
put back into the Hugging Face order (halves) here.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gguf import dequantize
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map
from torch import Tensor
from transformers import AutoTokenizer, PretrainedConfig

from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.families import FAMILIES
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.base import Source
from spikeconv.sources.gguf_config import read_config
from spikeconv.sources.gguf_file import GgufFile, open_gguf
from spikeconv.sources.model_config import build_empty, hf_config
from spikeconv.sources.own_card import plain_card

__all__ = ["GgufSource"]

OTHER_TYPES = ("I8", "I16", "I32", "I64", "F64")
ROPE_FACTORS = "rope_freqs.weight"


class GgufSource(Source):
    """One `.gguf` file of a supported architecture (or the first of a split one); all tensors come out as float32.

    Raises:
        SpikeconvError: it is damaged, of another architecture, lacks a tensor or its tokenizer, or holds a model that
            its config cannot say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_gguf(path)
        architecture = str(self._file.value("general.architecture"))
        known = sorted(family.gguf for family in FAMILIES.values() if family.gguf)
        if architecture not in known:
            raise SpikeconvError(f"{path} holds the GGUF architecture {architecture}; supported: {', '.join(known)}.")
        self.config = read_config(self._file, architecture)
        config = hf_config(self.config, most_layers=len(self._file.tensors))
        self._interleaved = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
        if architecture != "llama":
            self._interleaved = {}
        self._unread = _unread(self._file)
        self._tokenizer = _read_tokenizer(path)  # now, for it is written when all the work is done
        self._tensors = _map_names(self._file, config, architecture, set(self._unread))

    def names(self) -> list[str]:
        """Hugging Face names of the tensors; of what the model does not have, the file's own."""
        return list(self._tensors)

    def unread(self) -> dict[str, str]:
        """Factors of the rotary embedding that are all 1."""
        return self._unread

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in torch's order (GGUF lists it reversed)."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> torch.dtype | str:
        """Float32, which all float and quantized types become; the name of another type."""
        kind = self._tensors[name].tensor_type.name
        return kind if kind in OTHER_TYPES else torch.float32

    def types(self) -> list[str]:
        """What its weights are in the file, the most frequent first."""
        return [kind for kind, _ in Counter(each.tensor_type.name for each in self._tensors.values()).most_common()]

    def load(self, name: str) -> Tensor:
        """Dequantize one tensor."""
        tensor = self._tensors[name]
        try:
            values = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise SpikeconvError(
                f"{self.path}: {name} has the GGUF type {kind}, which cannot be dequantized here."
            ) from None
        values = values.view(self.shape(name))
        for part, heads in self._interleaved.items():
            if part in tensor.name:
                values = values.view(heads, -1, 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)
        return values.contiguous()

    def card(self) -> dict[str, Any]:
        """Licence and languages from its metadata."""
        keys = {"license": "general.license", "license_name": "general.license.name", "language": "general.languages"}
        keys |= {"license_link": "general.license.link"}
        return plain_card({name: self._file.value(key) for name, key in keys.items()})

    def weight_files(self) -> list[Path]:
        """The file itself, or all parts of it."""
        return list(self._file.parts)

    def tokenizer(self) -> Any:
        """The tokenizer that the file carries, read when it was opened."""
        return self._tokenizer

    def copy_companions(self, target: Path) -> None:
        """Write the tokenizer that the file carries."""
        self._tokenizer.save_pretrained(target)


def _read_tokenizer(path: Path) -> Any:
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # it trusts the file
        raise SpikeconvError(f"{path} holds no tokenizer that transformers can read: {reason_of(error)}") from error


def _unread(file: GgufFile) -> dict[str, str]:
    factors = file.tensors.get(ROPE_FACTORS)
    if factors is None:
        return {}
    if (factors.data != 1).any():
        raise SpikeconvError(
            f"{file.path} scales its rotary frequencies, which cannot be read from a GGUF file; "
            "convert the Hugging Face checkpoint of the model instead."
        )
    return {ROPE_FACTORS: "factors of the rotary frequencies that are all 1"}


def _map_names(file: GgufFile, config: PretrainedConfig, architecture: str, unread: set[str]) -> dict[str, Any]:
    """The file's tensors by the names of transformers' model; those that it does not have by their own, at the end."""
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    mapping = get_tensor_name_map(arch, config.num_hidden_layers)
    left = {name: tensor for name, tensor in file.tensors.items() if name not in unread}
    found = {}
    for key in build_empty(config).state_dict():
        base, _, suffix = key.rpartition(".")
        name = f"{mapping.get_name(base)}.{suffix}"
        if name in left:
            found[key] = left.pop(name)
        elif not (key == "lm_head.weight" and config.tie_word_embeddings):
            raise SpikeconvError(f"{file.path} holds no tensor for {key} (looked for {name}).")
    return found | left
