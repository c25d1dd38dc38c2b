"""A model of transformers with its tokenizer, loaded onto a device; what fails on the way is a sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import AutoTokenizer

from spikeconv.choices import check_device, check_dtype
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.quiet import quiet_transformers

__all__ = ["LoadedModel", "device_of", "find_device", "has_tokenizer", "load_model", "load_tokenizer", "parse_dtype"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer, and where it came from.

    Attributes:
        rounded: what of it is less exact than its dtype, by choice.
    """

    model: Any
    tokenizer: Any
    path: Path
    name: str
    rounded: tuple[str, ...] = ()

    @property
    def compute(self) -> dict[str, str]:
        """`dtype`, with what is rounded besides, and `device` that it computes with."""
        dtype = ", ".join((str(self.model.dtype).removeprefix("torch."), *self.rounded))
        return {"dtype": dtype, "device": device_of(self.model).type}


def load_model(
    path: Path, name: str, device: str, dtype: str, make_model: Callable[..., Any], make_tokenizer: Callable[[], Any]
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        path: where they come from.
        name: what to call the model.
        device: as torch names it, or "auto"; of a model that `make_model` places itself nothing is moved.
        dtype: compute dtype by name; "auto" takes the checkpoint's.
        make_model: called with `dtype`, as `from_pretrained` takes it.
        make_tokenizer: called after it.

    Raises:
        SpikeconvError: either cannot be loaded, or there is no such device or dtype.
    """
    target, compute = find_device(device), parse_dtype(dtype) or "auto"
    try:
        with quiet_transformers():
            model, tokenizer = make_model(dtype=compute), make_tokenizer()
    except SpikeconvError:
        raise
    except Exception as error:  # whatever transformers, tokenizers and safetensors make of a user's files
        raise SpikeconvError(f"{path} cannot be loaded: {reason_of(error)}") from error
    is_placed = getattr(model, "hf_device_map", None) is not None
    return LoadedModel(model.eval() if is_placed else model.eval().to(target), tokenizer, path, name)


def device_of(model: Any) -> torch.device:
    """Where a model takes its inputs and computes, also if its weights lie elsewhere until their modules run."""
    if not (placed := getattr(model, "hf_device_map", None)):
        return torch.device(model.device)
    return torch.device(next((device for device in placed.values() if device not in ("cpu", "disk")), "cpu"))


def has_tokenizer(path: Path) -> bool:
    """Whether a checkpoint's folder holds a tokenizer: files that are called like those of one."""
    return any(next(path.glob(pattern), None) for pattern in ("tokeniz*", "*vocab*", "*.model", "*.tiktoken"))


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint's folder.

    Raises:
        SpikeconvError: there is none, or this version of `tokenizers` cannot read it.
    """
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # `tokenizers` raises Exception itself
        if not has_tokenizer(path):
            raise SpikeconvError(
                f"{path} has no tokenizer, which everything that reads a text needs: copy the model's into it "
                "(tokenizer.json, tokenizer_config.json), or name another checkpoint."
            ) from None
        raise SpikeconvError(
            f"The tokenizer of {path} cannot be loaded; a file is damaged, missing or newer than the installed "
            f"tokenizers {tokenizers.__version__}: {reason_of(error)}"
        ) from error


def parse_dtype(name: str) -> torch.dtype | None:
    """The float dtype of a name; None for "auto".

    Raises:
        SpikeconvError: there is no such dtype.
    """
    check_dtype(name)
    return None if name == "auto" else getattr(torch, name)


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one.

    Raises:
        SpikeconvError: there is no such device.
    """
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:  # a number beyond those of torch
        raise SpikeconvError(f"Device {name} cannot be had: {reason_of(error)}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpikeconvError(f"Device {name} was asked for, but torch {torch.__version__} sees no GPU here.")
    return device
