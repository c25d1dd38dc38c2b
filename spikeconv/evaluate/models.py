"""Loads converted checkpoints, and the float models that they came from."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spikeconv.checkpoint.folder import source_arch, source_path
from spikeconv.choices import check_cache_dtype
from spikeconv.errors import SpikeconvError
from spikeconv.families import auto_class_of
from spikeconv.integrations.engine import set_cache_dtype
from spikeconv.integrations.head import is_rounded_by_choice, round_head
from spikeconv.loading import LoadedModel, load_model, load_tokenizer
from spikeconv.nn import attention_codes, set_execution, spike_linears
from spikeconv.placing import Placing
from spikeconv.sources.float_model import load_float
from spikeconv.sources.json_file import read_json
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.resolve import open_source
from spikeconv.sources.tensor_files import tensor_spans

__all__ = [
    "LoadedModel",
    "load_checkpoint",
    "load_converted",
    "load_source",
]


def load_checkpoint(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    execution: str | None = None,
    head_bits: int | None = None,
    cache_dtype: str | None = None,
    trust_remote_code: bool = False,
    placing: Placing | None = None,
) -> LoadedModel:
    """Load a converted checkpoint.

    Args:
        path: its directory.
        device: as torch names it, or "auto".
        dtype: compute dtype by name; "auto" takes the checkpoint's.
        execution: auto, dense, events or unfold; None leaves the default.
        head_bits: 8 to round the output head to int8 (see `round_head`).
        cache_dtype: float32 or bfloat16, of float keys and values (see `set_cache_dtype`).
        trust_remote_code: allow the checkpoint's own Python code.
        placing: how a model is spread that one device cannot hold; then it says where, not `device`.

    Raises:
        SpikeconvError: it cannot be loaded, or it fits nowhere.
    """
    _check_described(path)
    spread = {} if placing is None else placing.options()
    model = partial(_auto_class(path).from_pretrained, path, trust_remote_code=trust_remote_code, **spread)
    tokenizer = partial(load_tokenizer, path, trust_remote_code=trust_remote_code)
    loaded = load_model(path, path.name, device, dtype, model, tokenizer)
    _set_up(loaded.model, execution, head_bits, cache_dtype)
    rounded = {
        "8-bit head": head_bits == 8 and is_rounded_by_choice(loaded.model),
        "bfloat16 cache": cache_dtype == "bfloat16",
    }
    return replace(loaded, rounded=tuple(name for name, is_rounded in rounded.items() if is_rounded))


def load_converted(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    execution: str | None = None,
    head_bits: int | None = None,
    cache_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The model alone of a converted checkpoint, which may lack tokenizer and record; arguments as `load_checkpoint`'s.

    Raises:
        SpikeconvError: it cannot be loaded, or is not converted.
    """
    _check_described(path)
    model = partial(_auto_class(path).from_pretrained, path, trust_remote_code=trust_remote_code)
    loaded = load_model(path, path.name, device, dtype, model, lambda: None).model
    if not spike_linears(loaded) and not attention_codes(loaded):
        raise SpikeconvError(f"{path} is not converted: it is a float {type(loaded).__name__}; convert it first.")
    _set_up(loaded, execution, head_bits, cache_dtype)
    return loaded


def _set_up(model: Any, execution: str | None, head_bits: int | None, cache_dtype: str | None) -> None:
    if execution is not None:
        set_execution(model, execution)
    if head_bits is not None:
        round_head(model, head_bits)
    if cache_dtype is not None:
        check_cache_dtype(cache_dtype)
        set_cache_dtype(model, getattr(torch, cache_dtype))


def _auto_class(path: Path) -> Any:
    """The class that loads a checkpoint; what cannot be read is left to it, which says so."""
    try:
        config = read_json(path / "config.json")
    except SpikeconvError:
        config = {}
    return auto_class_of(config)


def _check_described(path: Path) -> None:
    """Refuse a configuration with values that cannot be, or with more layers than there are tensors: both are built.

    What cannot be read is left to the loading, which says so.
    """
    try:
        tensors = sum(len(tensor_spans(file)) for file in path.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if tensors:
        hf_config(read_json(path / "config.json"), most_layers=tensors)


def load_source(
    path: Path,
    source: Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    placing: Placing | None = None,
) -> LoadedModel:
    """Load the float model that the checkpoint `path` was converted from; `source` names it.

    Raises:
        SpikeconvError: it is not where it was, or not known (see `source_path`), or cannot be spread as asked for.
    """
    found = source_path(path, source)
    if found is None:
        raise SpikeconvError(f"{path} was converted from a model in memory, which cannot be compared with.")
    opened = open_source(found, trust_remote_code=trust_remote_code, arch=source_arch(path))
    return load_float(opened, device=device, dtype=dtype, placing=placing)
