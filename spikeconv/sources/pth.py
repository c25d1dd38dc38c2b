"""A `.pth` file of the RWKV authors as a source: a pickled dict of tensors under their own names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source
from spikeconv.sources.pth_layouts import ARCHITECTURES, LAYOUTS, check_arch, find_version
from spikeconv.sources.pth_tokenizer import find_tokenizer
from spikeconv.sources.torch_file import read_tensors

__all__ = ["PthSource"]

LANDMARKS = ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln1.weight", "head.weight")
UNREAD = "the first layer has no value of a layer before to mix in"
SUPPORTED = ", ".join(f"RWKV-{version}" for version in LAYOUTS)


class PthSource(Source):
    """One `.pth` file of RWKV-4, -6 or -7, or of SpikeGPT; names and shapes are those of transformers' models.

    Args:
        path: the file.
        arch: one of `ARCHITECTURES`, where the file's names are those of RWKV-4 but it is none; None: it is.

    Raises:
        SpikeconvError: the file is damaged, holds more than tensors, or no RWKV of a supported version; or its
            tokenizer cannot be had.
    """

    def __init__(self, path: Path, arch: str | None = None) -> None:
        self.path, self.arch = path, arch
        check_arch(path, arch)
        tensors = read_tensors(path)
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if missing := [key for key in LANDMARKS if key not in tensors]:
            raise SpikeconvError(f"{path} holds no RWKV model: it has {_some(tensors)}, but no {missing[0]}.")
        version = find_version(shapes)
        layout = LAYOUTS.get(version)
        if layout is None:
            attention = _some(key for key in tensors if key.startswith("blocks.0.att."))
            found = f"RWKV-{version}" if version else f"an unknown version of RWKV ({attention})"
            raise SpikeconvError(f"{path} holds {found}; supported: {SUPPORTED}.")
        if arch is not None:
            if version != "4":
                raise SpikeconvError(f"{path} holds RWKV-{version}; {arch} has the names of RWKV-4.")
            layout = ARCHITECTURES[arch]
        elif version == "4":
            self.assumption = "read as RWKV-4; a file of SpikeGPT looks the same: if it is one, say --arch spikegpt"
        if unknown := layout.unknown(list(tensors)):
            raise SpikeconvError(
                f"{path} holds a variant of RWKV-{version} with {_some(unknown)}, which is not supported; "
                f"supported: {SUPPORTED} as published."
            )
        try:
            self.config: dict[str, Any] = layout.config(shapes)
        except KeyError as error:
            raise SpikeconvError(f"{path} holds no tensor {error.args[0]}, which RWKV-{version} needs.") from None
        except IndexError:
            raise SpikeconvError(f"{path} holds tensors of other shapes than those of RWKV-{version}.") from None
        self.config["dtype"] = str(tensors["emb.weight"].dtype).removeprefix("torch.")
        self._tensors = {
            name: layout.arrange(key, tensor.detach())
            for key, tensor in tensors.items()
            if (name := layout.name(key)) is not None
        }
        self._unread = {key: UNREAD for key in tensors if layout.name(key) is None}
        self._tokenizer = find_tokenizer(path, self.config["vocab_size"])

    def names(self) -> list[str]:
        """transformers' names of the tensors, in file order."""
        return list(self._tensors)

    def unread(self) -> dict[str, str]:
        """Parts that files hold for every layer, where a model has them from the second on."""
        return self._unread

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape that transformers expects; nothing is read."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype in the file; its name if that is not a float type."""
        dtype = self._tensors[name].dtype
        return dtype if dtype.is_floating_point else str(dtype).removeprefix("torch.")

    def load(self, name: str) -> Tensor:
        """A contiguous copy of one tensor."""
        return self._tensors[name].clone(memory_format=torch.contiguous_format)

    def weight_files(self) -> list[Path]:
        """The file itself."""
        return [self.path]

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, found when the source was opened."""
        return self._tokenizer

    def copy_companions(self, target: Path) -> None:
        """Write the tokenizer."""
        self._tokenizer.save_pretrained(target)


def _some(keys: Iterable[object]) -> str:
    names = [str(key) for key in keys]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"
