"""A converted checkpoint holds every tensor of its model and nothing else, or it is refused with the tensor's name.

transformers fills what a file lacks with uninitialised memory, drops what the model does not know, and says so at most
in a log. So the names, shapes and types in the files are compared with the model's before anything is read, and what
was read must be finite.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, family_of
from spikeconv.nn import spike_linears

__all__ = ["check_files", "check_tensors"]

FLOATS = {"F16", "BF16", "F32", "F64"}
EXACT = {torch.uint8: "U8", torch.int32: "I32", torch.float32: "F32"}
"""As safetensors calls the types of a converted linear's tensors."""

AGAIN = "copy or convert the checkpoint again"


class _Entry(NamedTuple):
    file: str
    shape: tuple[int, ...]
    dtype: str


def check_files(model: Any, files: Iterable[str | Path]) -> None:
    """Compare what is in safetensors files with what a model, built and swapped on the meta device, expects.

    A head that another class of transformers adds (a classifier) may be missing: transformers initialises it. The
    output head may be there too much, for a model without one.

    Raises:
        SpikeconvError: a tensor is missing, unexpected, there twice, or has another shape or type.
    """
    found = _headers(files)
    expected = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    names = {name: _place(name, expected, model.base_model_prefix) for name in found}
    family = family_of(model)
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    for name, own in names.items():
        if own is None and not _is_head(name, family, model) and not any(p.search(name) for p in ignored):
            raise SpikeconvError(
                f"{found[name].file} holds {name}, for which {type(model).__name__} has no place with these settings "
                f"and {model.config.get_text_config().num_hidden_layers} layers; {AGAIN}."
            )
    present = {own: found[name] for name, own in names.items() if own is not None}
    _check_missing(model, expected.keys() - present.keys(), present.keys(), family)
    exact = _exact_types(model)
    for name, entry in present.items():
        shape, dtype = tuple(expected[name].shape), exact.get(name)
        fits = entry.dtype == dtype if dtype else entry.dtype in FLOATS or not expected[name].is_floating_point()
        if entry.shape != shape or not fits:
            raise SpikeconvError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; expected {dtype or 'floats'} "
                f"{list(shape)}; {AGAIN}."
            )


def check_tensors(model: Any) -> None:
    """Check that a loaded model's floats are finite, its row sums possible, and that every tensor of a converted linear
    was loaded.

    One pass over the floats that are in memory; packed weights cannot be wrong in that way.

    Raises:
        SpikeconvError: naming the first tensor that is not.
    """
    if getattr(model, "hf_device_map", None) is None:  # else tensors were moved, and lost their mark
        _check_marks(model)  # first: what was not loaded may hold anything
    seen: set[int] = set()
    for name, tensor in _tensors(model):
        if id(tensor) in seen or tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        seen.add(id(tensor))
        least, largest = torch.aminmax(tensor.detach())
        if not (least.isfinite() and largest.isfinite()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise SpikeconvError(f"{name} holds values that are not finite numbers in {dtype}; {AGAIN}.")
    for name, linear in spike_linears(model).items():
        sums, most = linear.weight_sum, linear.in_features * linear.scheme.weights.largest
        if sums is not None and not sums.is_meta and sums.long().abs().max() > most:  # int32 has no |-2^31|
            raise SpikeconvError(f"{name}.weight_sum holds sums that no row of such weights has; {AGAIN}.")
        for kind in ("input_salient", "output_salient"):
            salient = linear._buffers[kind]
            if salient is not None and not salient.is_meta and salient.max() > 1:
                raise SpikeconvError(f"{name}.{kind} holds {int(salient.max())}, not only 0 and 1; {AGAIN}.")


def _check_marks(model: Any) -> None:
    """Weights that come as a state dict have no file to look into; transformers marks what it loaded."""
    tensors = [
        (f"{name}.{kind}", tensor)
        for name, linear in spike_linears(model).items()
        for kind, tensor in (*linear.named_buffers(recurse=False), *linear.named_parameters(recurse=False))
    ]
    loaded = [getattr(tensor, "_is_hf_initialized", False) for _, tensor in tensors]
    missing = [name for (name, _), is_loaded in zip(tensors, loaded, strict=True) if not is_loaded]
    if any(loaded) and missing:
        raise SpikeconvError(f"{missing[0]} is missing among the weights that were given.")


def _headers(files: Iterable[str | Path]) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for path in map(Path, files):
        if path.suffix != ".safetensors":
            raise SpikeconvError(f"{path} is not a .safetensors file, which converted checkpoints consist of.")
        try:
            with safe_open(path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
                entries = {n: _Entry(path.name, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
        except (SafetensorError, OSError) as error:
            raise SpikeconvError(f"{path} cannot be read: {error}; {AGAIN}.") from None
        if twice := found.keys() & entries.keys():
            name = min(twice)
            raise SpikeconvError(f"{name} is in {found[name].file} and in {path.name}; {AGAIN}.")
        found |= entries
    return found


def _place(name: str, expected: dict[str, Tensor], prefix: str) -> str | None:
    """The name in the model of a tensor in a file, with the base model's prefix or without, as transformers has it."""
    places = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
    return next((place for place in places if place in expected), None)


def _is_head(name: str, family: Family, model: Any) -> bool:
    """Whether a tensor belongs to an output head that the family knows and this model does not have."""
    module = name.rpartition(".")[0]
    return family.is_float(module) and not module.startswith(f"{model.base_model_prefix}.")


def _check_missing(model: Any, missing: Iterable[str], present: Iterable[str], family: Family) -> None:
    base = "" if not hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
    tied: dict[str, str] = model.all_tied_weights_keys  # sources by target
    there = {tied.get(name, name) for name in present}
    for name in sorted(missing):
        if tied.get(name, name) in there:  # any one of those that share a tensor is enough
            continue
        own = type(model).__name__ in (model.config.architectures or [])  # its head too is in the checkpoint
        if own or name.startswith(base) or name.rpartition(".")[0] in family.skipped:
            lacking = tied.get(name, name)
            raise SpikeconvError(f"The checkpoint lacks {lacking}, which {type(model).__name__} needs; {AGAIN}.")


def _exact_types(model: Any) -> dict[str, str]:
    """What safetensors must call the type of a converted linear's tensors, where it is not the model's."""
    return {
        f"{name}.{kind}": EXACT[dtype]
        for name, linear in spike_linears(model).items()
        for kind, dtype in linear.dtypes().items()
        if dtype is not None
    }


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
