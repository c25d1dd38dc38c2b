"""What a Python user needs: `convert`, `load`, `record_spikes`, `set_steps`, `verify`.

Nothing of torch or transformers is imported before one of them is called, so that `import spikeconv` costs nothing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from spikeconv.sizes import DEFAULT_SHARD_SIZE, parse_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from spikeconv.conversion.pipeline import ConvertSummary
    from spikeconv.record.spikes import Spikes
    from spikeconv.verification.result import VerifyResult

__all__ = ["convert", "load", "record_spikes", "set_steps", "verify"]

PathLike = str | os.PathLike[str]


@overload
def convert(
    model: "PathLike | PreTrainedModel",
    output: None = None,
    *,
    scheme: str | None = None,
    dtype: "str | torch.dtype" = "auto",
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    arch: str | None = None,
    **settings: Any,
) -> "PreTrainedModel": ...


@overload
def convert(
    model: "PathLike | PreTrainedModel",
    output: PathLike,
    *,
    scheme: str | None = None,
    dtype: "str | torch.dtype" = "auto",
    tokenizer: Any = None,
    force: bool = False,
    restart: bool = False,
    jobs: int | None = None,
    device: str = "cpu",
    max_memory: str | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    trust_remote_code: bool = False,
    arch: str | None = None,
    **settings: Any,
) -> "ConvertSummary": ...


def convert(
    model: "PathLike | PreTrainedModel",
    output: PathLike | None = None,
    *,
    scheme: str | None = None,
    dtype: "str | torch.dtype" = "auto",
    tokenizer: Any = None,
    force: bool = False,
    restart: bool = False,
    jobs: int | None = None,
    device: str = "cpu",
    max_memory: str | None = None,
    max_shard_size: str = DEFAULT_SHARD_SIZE,
    trust_remote_code: bool = False,
    arch: str | None = None,
    **settings: Any,
) -> "PreTrainedModel | ConvertSummary":
    """Convert a float model into a spike-driven one.

    Args:
        model: a preset, hub id, directory, GGUF or `.pth` file, or a `PreTrainedModel` in memory, which stays as it is.
        output: the checkpoint to create; None gives the converted model itself, in memory.
        scheme: a YAML file or a name in `configs/schemes/`; `settings` go on top of it.
        dtype: dtype of what stays float: auto (as in the source), float32, bfloat16, float16.
        tokenizer: that of a model in memory, for the checkpoint's sake and to calibrate a clipping or a balance.
        force: replace an existing converted checkpoint.
        restart: begin anew where a conversion to the same output was stopped; else it goes on.
        jobs: threads that convert; None: one for each core.
        device: that rotates and rounds where there is an `output`: cpu, cuda, …
        max_memory: the most memory of the whole process, as in 4GB; None: no limit.
        max_shard_size: largest weight file.
        trust_remote_code: allow the source's own Python code.
        arch: what a `.pth` file holds that does not tell (spikegpt, spikegpt-binary, spikegpt-b); None: RWKV.
        **settings: as on the command line (`bits="4-1.58"`, `steps=16`, `kv_bits=4`, `clip_quantile=0.5`) or by path
            (`inputs={"clip_ratio": 0.95}`); `skip=["down"]`; `overrides={"down": {"bits": "6-1.58"}}`.

    Returns:
        The converted model in evaluation mode; with `output` the summary of what was written there.

    Raises:
        SpikeconvError: the model cannot be converted like that, or the output is in the way.
    """
    from spikeconv.checkpoint.format import RECORD
    from spikeconv.checkpoint.scratch import check_target
    from spikeconv.conversion.memory import convert_in_memory
    from spikeconv.conversion.pipeline import convert as write
    from spikeconv.conversion.recipe import open_model, plan_conversion, read_settings
    from spikeconv.conversion.writing import Writing, default_jobs
    from spikeconv.loading import find_device, parse_dtype

    target = None if output is None else Path(output).expanduser()
    float_dtype = parse_dtype(_dtype_name(dtype))
    config, clipping, calibration, wanted = read_settings(scheme, settings)
    if target is not None:
        check_target(target, force, RECORD)
    source = open_model(_expanded(model), tokenizer, trust_remote_code=trust_remote_code, arch=arch)
    most = None if max_memory is None else parse_size(max_memory, "max_memory")
    plan = plan_conversion(source, config, clipping, calibration, wanted, dtype=float_dtype, max_memory=most)
    if target is None:
        return convert_in_memory(source, plan, dtype=float_dtype)
    arguments = {"scheme": scheme, "dtype": _dtype_name(dtype), **settings}
    writing = Writing(
        shard_bytes=parse_size(max_shard_size, "max_shard_size"),
        jobs=default_jobs() if jobs is None else jobs,
        device=find_device(device),
        max_memory=most,
        force=force,
        restart=restart,
    )
    return write(source, plan, target, command=_call(model, output, arguments), dtype=float_dtype, writing=writing)


def load(
    path: PathLike,
    *,
    device: str = "auto",
    dtype: "str | torch.dtype" = "auto",
    execution: str | None = None,
    head_bits: int | None = None,
    cache_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Load a converted checkpoint: an ordinary model of transformers, in evaluation mode.

    Args:
        path: its directory or hub id.
        device: as torch names it, or auto: a GPU if there is one.
        dtype: dtype of what stays float; auto: as in the checkpoint.
        execution: auto, dense, events or unfold.
        head_bits: 8 to round the float output head to int8, which is read for every token (on a CPU); None: its own.
        cache_dtype: float32 or bfloat16, of float keys and values in the engine (on a CPU).
        trust_remote_code: allow the checkpoint's own Python code.

    Raises:
        SpikeconvError: it cannot be loaded, is damaged, or is not converted.
    """
    from spikeconv.evaluate.models import load_converted

    model: PreTrainedModel = load_converted(
        Path(path).expanduser(),
        device=device,
        dtype=_dtype_name(dtype),
        execution=execution,
        head_bits=head_bits,
        cache_dtype=cache_dtype,
        trust_remote_code=trust_remote_code,
    )
    return model


def record_spikes(model: "PreTrainedModel", *, trains: Iterable[str] = ()) -> "Spikes":
    """Record the spikes of every converted linear while a context is open; several may be open at once.

        with spikeconv.record_spikes(model, trains=["model.layers.0.self_attn.q_proj"]) as spikes:
            model(**inputs)
        spikes["model.layers.0.self_attn.q_proj"].firing_rate
        spikes.train("model.layers.0.self_attn.q_proj")

    Args:
        model: a converted model.
        trains: names (or shell patterns) of linears whose counts are kept, so that their spike trains can be had.

    Raises:
        SpikeconvError: the model is not converted, or a pattern matches none of its linears.
    """
    from spikeconv.record.spikes import Spikes

    return Spikes(_uncompiled(model), (trains,) if isinstance(trains, str) else tuple(trains))


def set_steps(model: "PreTrainedModel", steps: int) -> None:
    """Change the number of virtual steps T' that the inputs of a loaded model's linears are spread over.

    Weights stay as they are; only how finely inputs are counted changes. Linears whose count bits an override names
    keep them; keys and values keep theirs. What `save_pretrained` writes has the new number.

    Args:
        model: a converted model whose inputs are ternary or binary counts.
        steps: T': 2, 4, … 128 with ternary spikes, 3, 7, … 255 with binary ones.

    Raises:
        SpikeconvError: the model is not converted, or cannot have so many; it is then unchanged.
    """
    from spikeconv.integrations.steps import set_virtual_steps

    set_virtual_steps(_uncompiled(model), steps)


def verify(
    checkpoint: "PathLike | PreTrainedModel",
    *,
    text: str | None = None,
    tokens: int = 32,
    source: "bool | PathLike" = True,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> "VerifyResult":
    """Compare all executions of a converted model bit for bit on real activations, and its tensors with its source's.

    Args:
        checkpoint: a converted checkpoint, or a model that was loaded from one or converted in memory.
        text: what to run; None: a bundled public-domain sample.
        tokens: tokens of it.
        source: compare with the float source too, where the checkpoint was converted here; or what it was converted
            from, as for `convert`.
        device: for a checkpoint on disk.
        trust_remote_code: allow the checkpoint's own Python code.

    Returns:
        What was checked and found; `clean` says whether nothing differed.

    Raises:
        SpikeconvError: it cannot be loaded, or is not converted.
    """
    from spikeconv.verification.run import verify_any

    return verify_any(
        _uncompiled(_expanded(checkpoint)),
        text,
        tokens=tokens,
        source=source,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def _expanded(model: Any) -> Any:
    """A path without `~`; models and names of presets as they are."""
    return os.path.expanduser(model) if isinstance(model, str | os.PathLike) else model


def _uncompiled(model: Any) -> Any:
    """The model inside what `torch.compile` gives, which has the same modules under other names."""
    return getattr(model, "_orig_mod", model)


def _dtype_name(dtype: "str | torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def _call(model: Any, output: PathLike | None, arguments: dict[str, Any]) -> str:
    """A call of `convert`, for the record."""
    given = {key: value for key, value in arguments.items() if value is not None and (key, value) != ("dtype", "auto")}
    words = [_plain(model), _plain(output), *(f"{key}={_plain(value)}" for key, value in given.items())]
    return f"spikeconv.convert({', '.join(words)})"


def _plain(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    plain = value is None or isinstance(value, str | int | float | list | tuple | dict)
    return repr(value) if plain else f"<{type(value).__name__}>"
