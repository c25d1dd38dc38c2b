"""Loads converted checkpoints, and the float models that they came from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spikeconv.cache import cache_dir
from spikeconv.checkpoint.writer import RECORD, write_json
from spikeconv.conversion.plan import hf_config
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.nn import set_execution
from spikeconv.quiet import quiet_transformers
from spikeconv.sources.hf import HfSource, read_json
from spikeconv.sources.resolve import open_source

__all__ = [
    "LoadedModel",
    "find_device",
    "load_checkpoint",
    "load_float",
    "load_source",
    "read_record",
    "remember",
    "resolve_checkpoint",
    "save_zero_shares",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer, and where it came from."""

    model: Any
    tokenizer: Any
    path: Path
    name: str


def remember(checkpoint: Path) -> None:
    """Make a checkpoint the default of later commands."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "last").write_text(str(checkpoint.absolute()), encoding="utf-8")


def resolve_checkpoint(path: Path | None) -> Path:
    """The checkpoint meant: `path`, or the last converted one.

    Raises:
        SpikeconvError: there is none, or it is not a converted checkpoint.
    """
    if path is None:
        last = cache_dir() / "last"
        if not last.is_file():
            raise SpikeconvError("Nothing has been converted yet; run `spikeconv convert` or name a checkpoint.")
        path = Path(last.read_text(encoding="utf-8"))
    if not (path / RECORD).is_file():
        raise SpikeconvError(
            f"{path} is not a converted checkpoint (no {RECORD} in it); run `spikeconv convert` first."
        )
    return path


def read_record(path: Path) -> dict[str, Any]:
    """The `spikeconv.json` of a checkpoint."""
    return read_json(path / RECORD)


def save_zero_shares(path: Path, shares: dict[str, float]) -> None:
    """Note the measured share of zero counts of every linear in a checkpoint's `config.json`.

    Raises:
        SpikeconvError: the file cannot be written; it is then as it was.
    """
    config = read_json(path / "config.json")
    config["quantization_config"]["zero_share"] = {name: round(share, 4) for name, share in shares.items()}
    try:
        write_json(path / "config.json.new", config)
        (path / "config.json.new").replace(path / "config.json")
    except OSError as error:
        (path / "config.json.new").unlink(missing_ok=True)
        raise SpikeconvError(f"{path / 'config.json'} cannot be written: {error}") from None


def load_checkpoint(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    execution: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a converted checkpoint.

    Args:
        path: its directory.
        device: as torch names it, or "auto".
        dtype: compute dtype by name; "auto" takes the checkpoint's.
        execution: auto, dense, events or unfold; None leaves the default.
        trust_remote_code: allow the checkpoint's own Python code.

    Raises:
        SpikeconvError: it cannot be loaded.
    """
    loaded = _load(path, path.name, device, dtype, {"trust_remote_code": trust_remote_code})
    if execution is not None:
        set_execution(loaded.model, execution)
    return loaded


def load_source(
    path: Path, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """Load the float model that the checkpoint `path` was converted from.

    Raises:
        SpikeconvError: it is no longer where it was.
    """
    source = Path(read_record(path)["source"]["path"])
    if not source.exists():
        raise SpikeconvError(f"The source of {path}, {source}, is gone; the float model cannot be compared with.")
    return load_float(source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def load_float(
    source: Path, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """Load a float model from a Hugging Face directory, a GGUF file or a `.pth` file."""
    opened = open_source(source, trust_remote_code=trust_remote_code)
    config = hf_config(opened.config)
    if isinstance(opened, HfSource):
        options = {"trust_remote_code": trust_remote_code, **find_family(opened.config).fixed}
        return _load(source, source.name, device, dtype, options)
    # Not `from_pretrained(gguf_file=…)`: that prints, and leaves a model that refuses `save_pretrained`.
    weights = {name: opened.load(name) for name in opened.names()}
    options = {"config": config, "state_dict": weights}
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    return _load(source, source.stem, device, dtype, options, model_class, opened.tokenizer)


def parse_dtype(name: str) -> torch.dtype | None:
    """The float dtype of a name; None for "auto".

    Raises:
        SpikeconvError: there is no such dtype.
    """
    if name != "auto" and name not in DTYPES:
        raise SpikeconvError(f"Unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}.")
    return DTYPES.get(name)


def _load(
    path: Path,
    name: str,
    device: str,
    dtype: str,
    options: dict[str, Any],
    model_class: Any = AutoModelForCausalLM,
    load_tokenizer: Callable[[], Any] | None = None,
) -> LoadedModel:
    """Load from a directory, or from a file whose weights are in `options`, with its own way to a tokenizer."""
    target, compute = find_device(device), parse_dtype(dtype) or "auto"
    try:
        with quiet_transformers():
            model = model_class.from_pretrained(None if load_tokenizer else path, dtype=compute, **options)
            if load_tokenizer:
                tokenizer = load_tokenizer()
            else:
                tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=options["trust_remote_code"])
    except (OSError, ValueError, RuntimeError) as error:
        raise SpikeconvError(f"{path} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return LoadedModel(model.eval().to(target), tokenizer, path, name)


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one.

    Raises:
        SpikeconvError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SpikeconvError(f"Unknown device {name!r}; choose auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpikeconvError(f"Device {name} was asked for, but torch {torch.__version__} sees no GPU here.")
    return device
