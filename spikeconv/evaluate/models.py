"""Loads converted checkpoints, and the float models that they came from."""

from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from spikeconv.cache import cache_dir
from spikeconv.checkpoint.writer import RECORD, write_json
from spikeconv.errors import SpikeconvError
from spikeconv.loading import LoadedModel, load_model
from spikeconv.nn import attention_codes, set_execution, spike_linears
from spikeconv.sources.float_model import load_float
from spikeconv.sources.json_file import read_json

__all__ = [
    "LoadedModel",
    "load_checkpoint",
    "load_converted",
    "load_source",
    "read_record",
    "remember",
    "resolve_checkpoint",
    "save_zero_shares",
    "source_path",
]


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


def source_path(record: dict[str, Any]) -> Path | None:
    """Where the source of a checkpoint was when it was converted; None for a model in memory."""
    path = record["source"]["path"]
    return None if path is None else Path(path)


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
    model, tokenizer = (
        partial(auto_class.from_pretrained, path, trust_remote_code=trust_remote_code)
        for auto_class in (AutoModelForCausalLM, AutoTokenizer)
    )
    loaded = load_model(path, path.name, device, dtype, model, tokenizer)
    if execution is not None:
        set_execution(loaded.model, execution)
    return loaded


def load_converted(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    execution: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The model alone of a converted checkpoint, which may lack tokenizer and record; arguments as `load_checkpoint`'s.

    Raises:
        SpikeconvError: it cannot be loaded, or is not converted.
    """
    model = partial(AutoModelForCausalLM.from_pretrained, path, trust_remote_code=trust_remote_code)
    loaded = load_model(path, path.name, device, dtype, model, lambda: None).model
    if not spike_linears(loaded) and not attention_codes(loaded):
        raise SpikeconvError(f"{path} is not converted: it is a float {type(loaded).__name__}; convert it first.")
    if execution is not None:
        set_execution(loaded, execution)
    return loaded


def load_source(
    path: Path, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """Load the float model that the checkpoint `path` was converted from.

    Raises:
        SpikeconvError: it is no longer where it was.
    """
    source = source_path(read_record(path))
    if source is None:
        raise SpikeconvError(f"{path} was converted from a model in memory, which cannot be compared with.")
    if not source.exists():
        raise SpikeconvError(f"The source of {path}, {source}, is gone; the float model cannot be compared with.")
    return load_float(source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
