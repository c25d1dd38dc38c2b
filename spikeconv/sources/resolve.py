"""What a SOURCE on the command line means: a local directory, GGUF or .pth file, a preset, or a hub id."""

import difflib
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES, find_family
from spikeconv.sources.base import Source
from spikeconv.sources.hf import HfSource
from spikeconv.sources.json_file import read_json
from spikeconv.sources.presets import Preset, model_presets
from spikeconv.sources.weight_files import ADAPTER, INDEX, SINGLE, adapter_base
from spikeconv.wheels import SMOLLM2, Wheel

__all__ = ["cached_snapshot", "cached_wheel", "fetch_from_hub", "open_source", "resolve_source"]

WHEELS: dict[str, Wheel] = {SMOLLM2.name: SMOLLM2}
FILE_SUFFIXES = (".gguf", ".pth")
PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
PICKLED = ("pytorch_model*.bin",)
TIMEOUT = 5.0
"""Seconds for the one request that tells whether a hub model can be had."""


def resolve_source(source: str) -> Path:
    """The local directory or file of a source, fetched if it is not here yet.

    Raises:
        SpikeconvError: there is no such source, or it cannot be reached.
    """
    if Path(source).exists():
        return Path(source)
    if source.startswith("~"):  # quoted, or written as --option=~/…, so that no shell replaced it
        return _below_home(source)
    presets = model_presets()
    if source in presets:
        return _fetch_preset(presets[source])
    if source.count("/") == 1 and not source.startswith((".", "/")) and not source.lower().endswith(FILE_SUFFIXES):
        return fetch_from_hub(source)
    near = difflib.get_close_matches(source, presets, n=1)
    hint = f" Did you mean the preset {near[0]}?" if near else ""
    raise SpikeconvError(
        f"{source} is no directory, GGUF or .pth file, and no preset.{hint} Presets: {', '.join(presets)}."
    )


def open_source(path: Path, *, trust_remote_code: bool = False) -> Source:
    """Open a directory, GGUF or .pth file as a source.

    Raises:
        SpikeconvError: it is none of these, is damaged, or needs Python code of its own and that was not allowed.
    """
    if path.is_file() and path.suffix.lower() == ".gguf":
        from spikeconv.sources.gguf import GgufSource

        return GgufSource(path)
    if path.is_file() and path.suffix.lower() == ".pth":
        from spikeconv.sources.pth import PthSource

        return PthSource(path)
    if not path.is_dir():
        raise SpikeconvError(f"{path} is not a directory, a .gguf or a .pth file.")
    if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
        raise SpikeconvError(
            f"{path} holds an adapter ({ADAPTER}), no model; merge it into its base, {adapter_base(path)}, first "
            "(peft: merge_and_unload), and convert the result."
        )
    if not (path / "config.json").exists() and (files := sorted(f.name for f in path.iterdir() if _is_model(f))):
        raise SpikeconvError(f"{path} holds no config.json, but {files[0]}; give that file instead: {path / files[0]}")
    config = read_json(path / "config.json")
    if not trust_remote_code and _needs_remote_code(config):
        raise SpikeconvError(
            f"{path} brings its own model code ({config['auto_map']['AutoModelForCausalLM']}); read it, and pass "
            "--trust-remote-code if it may run here."
        )
    find_family(config)  # an unsupported architecture is the better news, also where files are missing
    return HfSource(path, trust_remote_code=trust_remote_code)


def fetch_from_hub(model_id: str, only: tuple[str, ...] | None = None) -> Path:
    """The local snapshot of a hub model, or of these files of it; one quick request decides whether it can be had.

    Raises:
        SpikeconvError: the model is gated or does not exist, or the hub cannot be reached and no copy is cached.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
    )

    try:
        files = [file.rfilename for file in HfApi().model_info(model_id, timeout=TIMEOUT).siblings or ()]
        pickled = () if {SINGLE, INDEX} & set(files) else PICKLED
        return Path(snapshot_download(model_id, allow_patterns=list(only or (*PATTERNS, *pickled))))
    except GatedRepoError:
        reason = f"{model_id} is gated: accept its licence on its page on the hub, then log in with `hf auth login`."
    except RepositoryNotFoundError:
        reason = f"The hub has no model {model_id} (or it is private; log in with `hf auth login`)."
    except HfHubHTTPError as error:
        reason = f"The hub refused {model_id}: {str(error).splitlines()[0]}"
    except Exception as error:  # the client's network errors share no base class
        if (cached := cached_snapshot(model_id)) is not None:
            return cached
        reason = f"The model hub cannot be reached ({type(error).__name__}) and {model_id} is not cached here."
    raise SpikeconvError(reason)


def cached_snapshot(model_id: str) -> Path | None:
    """What an earlier run fetched of a hub model, if anything."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=[*PATTERNS, *PICKLED], local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _below_home(source: str) -> Path:
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise SpikeconvError(f"{source} cannot be found: {error}.") from None
    if not path.exists():
        raise SpikeconvError(f"{source} ({path}) does not exist.")
    return path


def _fetch_preset(preset: Preset) -> Path:
    if preset.wheel is None or preset.file is None:
        return fetch_from_hub(preset.hub)
    if (cached := cached_wheel(preset)) is not None:  # what was used before is used again, so that runs can be compared
        return cached
    try:
        return fetch_from_hub(preset.hub)
    except SpikeconvError:
        return WHEELS[preset.wheel].folder() / preset.file


def cached_wheel(preset: Preset) -> Path | None:
    """The file of a preset in a wheel that an earlier run fetched, if it did."""
    if preset.wheel is None or preset.file is None:
        return None
    wheel = WHEELS[preset.wheel]
    return wheel.folder() / preset.file if wheel.is_cached() else None


def _is_model(path: Path) -> bool:
    return path.suffix.lower() in FILE_SUFFIXES


def _needs_remote_code(config: dict[str, Any]) -> bool:
    auto_map = config.get("auto_map")
    return (
        isinstance(auto_map, dict)
        and "AutoModelForCausalLM" in auto_map
        and str(config.get("model_type")) not in FAMILIES
    )
