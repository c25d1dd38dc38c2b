"""Every tensor of a source is read, known to be ignorable (with the reason), or a reason to refuse the source.

What a model of transformers does not have is dropped there with a note in a log. Here it would be worse: such a tensor
may carry the name of one that the conversion makes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source
from spikeconv.untrusted import shorten

__all__ = ["Tensors", "check_tensors"]

IGNORABLE = {
    r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$": "computed from config.json by the rotary embedding",
    r"(^|\.)position_ids$": "counted when the model runs",
}
"""Patterns of names that old versions of transformers wrote and newer ones leave out, with the reason."""

HINTS = {
    r"(^|\.)lora_|^base_model\.|\.base_layer\.": "a LoRA adapter's; merge it into the weights first",
    r"(weight_(scale|scale_inv|sum|zero_point|packed|shape)|(input|output|k|v)_(scale|threshold|zero_point)|qweight|"
    r"qzeros|g_idx|scales|SCB|weight_format|absmax|quant_map|quant_state.*|activation_scale)$": "what another "
    "quantization left; convert the float checkpoint",
}
"""What unexpected names look like."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a source.

    Attributes:
        shapes: of those that are read, by name, in file order.
        ignored: names of those that are not, with the reason.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ignored: Mapping[str, str]


def check_tensors(source: Source, model: PreTrainedModel) -> Tensors:
    """Compare the tensors of a source with those of the model (on the meta device) that its config describes.

    Raises:
        SpikeconvError: a tensor is missing, unknown, of another shape, or no float type.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = dict.fromkeys(source.names())
    _check_missing(source, [name for name in expected if name not in names], len(expected), model.all_tied_weights_keys)
    ignorable = IGNORABLE | {
        pattern: f"{type(model).__name__} leaves it out when it loads"
        for pattern in model._keys_to_ignore_on_load_unexpected or ()
    }
    shapes, ignored, unknown = {}, dict(source.unread()), []
    for name in names:
        reason = next((reason for pattern, reason in ignorable.items() if re.search(pattern, name)), None)
        if name in expected:
            shapes[name] = _checked_shape(source, name, expected[name])
        elif reason is not None:
            ignored[name] = reason
        else:
            unknown.append(name)
    if unknown:
        raise SpikeconvError(_unknown(source, unknown, type(model).__name__))
    return Tensors(shapes, ignored)


def _check_missing(source: Source, missing: list[str], expected: int, tied: Mapping[str, str]) -> None:
    """Of a tied pair one is enough, whichever it is."""
    if len(missing) == expected:
        held = _some(shorten(name) for name in source.names()) or "nothing"
        raise SpikeconvError(
            f"{source.path} holds none of the {expected} tensors of its config.json's model, but {held}."
        )
    for name in missing:
        pair = {tied.get(name), *(other for other, first in tied.items() if first == name)} - {None}
        if pair <= set(missing):
            raise SpikeconvError(f"{source.path} holds no tensor {name}, which its config.json asks for.")


def _checked_shape(source: Source, name: str, expected: tuple[int, ...]) -> tuple[int, ...]:
    shape, dtype = source.shape(name), source.dtype(name)
    if shape != expected:
        raise SpikeconvError(f"{source.path}: {name} has shape {shape}, config.json asks for {expected}.")
    if not isinstance(dtype, torch.dtype):
        raise SpikeconvError(f"{source.path}: {name} has dtype {dtype}, expected a float weight.")
    return shape


def _unknown(source: Source, names: list[str], architecture: str) -> str:
    hints = (hint for pattern, hint in HINTS.items() if all(re.search(pattern, name) for name in names))
    hint = next((f" They look like {hint}." for hint in hints), "")
    found = _some(f"{shorten(name)} ({_kind(source, name)})" for name in names)
    return (
        f"{source.path} holds {found}, which a {architecture} with this config.json does not have; nothing is left out "
        f"silently.{hint} Remove them from the file to convert it without them."
    )


def _kind(source: Source, name: str) -> str:
    return f"{str(source.dtype(name)).removeprefix('torch.')} {list(source.shape(name))}"


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
