"""A GGUF file as a source: each tensor is dequantized when it is read, so memory stays bounded.

llama.cpp stores the q and k rows of LLaMA models in the order its rotary embedding wants (pairs interleaved); they are
put back into the Hugging Face order (halves) here.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES, find_family
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.base import Source

__all__ = ["GgufSource"]


class GgufSource(Source):
    """One `.gguf` file of a supported architecture; all tensors come out as float32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
            architecture = str(self._reader.fields["general.architecture"].contents())
        except Exception as error:  # the reader trusts its file and fails in many ways on a bad one
            raise SpikeconvError(f"{path} is not a readable GGUF file: {type(error).__name__}: {error}") from None
        if architecture not in {family.gguf for family in FAMILIES.values()}:
            known = ", ".join(sorted(f.gguf for f in FAMILIES.values() if f.gguf))
            raise SpikeconvError(f"{path} holds the GGUF architecture {architecture}; supported: {known}.")
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        # What transformers leaves in the file: the head size of Qwen3, and any stretching of the rotary embedding.
        head_dim = self._reader.fields.get(f"{architecture}.attention.key_length")
        if head_dim is not None:
            config.head_dim = int(head_dim.contents())
        self._check_rope(architecture)
        config.architectures = [FAMILIES[config.model_type].architecture]
        config.dtype = torch.float32
        self.config: dict[str, Any] = {k: v for k, v in config.to_diff_dict().items() if "name_or_path" not in k}
        find_family(self.config)
        self._interleaved = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
        if architecture != "llama":
            self._interleaved = {}
        self._tensors = self._map_names(config, architecture)

    def _check_rope(self, architecture: str) -> None:
        scaling = self._reader.fields.get(f"{architecture}.rope.scaling.type")
        factors = [tensor.data for tensor in self._reader.tensors if tensor.name == "rope_freqs.weight"]
        if (scaling is not None and scaling.contents() != "none") or any((factor != 1).any() for factor in factors):
            raise SpikeconvError(
                f"{self.path} scales its rotary frequencies, which cannot be read from a GGUF file; "
                "convert the Hugging Face checkpoint of the model instead."
            )

    def _map_names(self, config: Any, architecture: str) -> dict[str, Any]:
        arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
        mapping = get_tensor_name_map(arch, config.num_hidden_layers)
        by_name = {tensor.name: tensor for tensor in self._reader.tensors}
        with torch.device("meta"):
            keys = AutoModelForCausalLM.from_config(config).state_dict().keys()
        found = {}
        for key in keys:
            base, _, suffix = key.rpartition(".")
            name = f"{mapping.get_name(base)}.{suffix}"
            if name in by_name:
                found[key] = by_name[name]
            elif not (key == "lm_head.weight" and config.tie_word_embeddings):
                raise SpikeconvError(f"{self.path} holds no tensor for {key} (looked for {name}).")
        return found

    def names(self) -> list[str]:
        """Hugging Face names of the tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in torch's order (GGUF lists it reversed)."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> torch.dtype:
        """Always float32."""
        return torch.float32

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

    def weight_files(self) -> list[Path]:
        """The file itself."""
        return [self.path]

    def tokenizer(self) -> Any:
        """The tokenizer that the file carries."""
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)

    def copy_companions(self, target: Path) -> None:
        """Write the tokenizer that the file carries."""
        self.tokenizer().save_pretrained(target)
