"""A model in memory as a source: what `spikeconv.convert(model)` converts; the model itself stays as it is."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source

__all__ = ["ModelSource"]


class ModelSource(Source):
    """A supported `PreTrainedModel`; of tensors that are tied, the first name is read.

    Args:
        model: the model, on any device.
        tokenizer: its tokenizer, which a model does not carry.

    Raises:
        SpikeconvError: some of its weights are not in memory, or are not what its config says.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any = None) -> None:
        if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
            raise SpikeconvError(f"A {type(tokenizer).__name__} is no tokenizer of transformers; give a loaded one.")
        self.model = model
        self.path = Path(f"{type(model).__name__} in memory")  # for sentences; there is no such file
        self._tokenizer = tokenizer
        self.config = {
            **{key: value for key, value in model.config.to_diff_dict().items() if "name_or_path" not in key},
            "architectures": [type(model).__name__],
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        self._tensors: dict[str, Tensor] = {}
        seen = set()
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_meta:
                raise SpikeconvError(f"{self.path}: {name} is offloaded; convert the checkpoint on disk instead.")
            if id(tensor) not in seen:
                seen.add(id(tensor))
                self._tensors[name] = tensor
        if getattr(model.base_model, "layers_are_rescaled", False):  # RWKV-4, after a forward for inference
            raise SpikeconvError(
                f"{self.path} has halved its weights (rescale_every); set config.rescale_every = 0 before its first "
                "forward, or convert the checkpoint on disk."
            )

    def names(self) -> list[str]:
        """Names in the state dict."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype | str:
        """Dtype of a tensor."""
        dtype = self._tensors[name].dtype
        return dtype if dtype.is_floating_point else str(dtype)

    def load(self, name: str) -> Tensor:
        """A copy of a tensor, on the CPU."""
        return self._tensors[name].detach().to("cpu", copy=True)

    def origin(self) -> None:
        """It is no file."""
        return None

    def weight_files(self) -> list[Path]:
        """None."""
        return []

    def tokenizer(self) -> Any:
        """The tokenizer that was given.

        Raises:
            SpikeconvError: none was.
        """
        if self._tokenizer is None:
            raise SpikeconvError(f"{self.path} has no tokenizer; give one: convert(model, tokenizer=…).")
        return self._tokenizer

    def copy_companions(self, target: Path) -> None:
        """Write its generation config, and the tokenizer if one was given."""
        generation = getattr(self.model, "generation_config", None)  # an encoder has none
        if generation is not None:
            generation.save_pretrained(target)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(target)

    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())
