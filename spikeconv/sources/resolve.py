"""What a SOURCE on the command line means: a local directory, GGUF or .pth file, a preset, or a hub id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from spikeconv.errors import SpikeconvError
from spikeconv.families import FAMILIES, find_family
from spikeconv.sources.base import Source
from spikeconv.sources.hf import HfSource
from spikeconv.sources.hub import fetch_from_hub, look_up
from spikeconv.sources.hub_source import HubSource
from spikeconv.sources.json_file import read_json
from spikeconv.sources.presets import FILE_SUFFIXES, Preset, check_source_name, model_presets
from spikeconv.sources.pth_layouts import check_arch
from spikeconv.sources.weight_files import ADAPTER, adapter_base
from spikeconv.wheels import MINILM, SMOLLM2, Wheel

__all__ = ["cached_wheel", "open_named", "open_source", "resolve_source"]

WHEELS: dict[str, Wheel] = {wheel.name: wheel for wheel in (SMOLLM2, MINILM)}
T = TypeVar("T")


def resolve_source(source: str) -> Path:
    """The local directory or file of a source, fetched if it is not here yet.

    Raises:
        SpikeconvError: there is no such source, or it cannot be reached.
    """
    return _find(source, fetch_from_hub)


def open_named(
    source: str,
    *,
    trust_remote_code: bool = False,
    delete_shards: bool = False,
    arch: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Source:
    """Open what a source on the command line means; the shards of a hub's model come when they are read.

    Args:
        source: as for `resolve_source`.
        trust_remote_code: whether Python code in it may run.
        delete_shards: remove every shard of the hub's that is fetched from now on when it is released.
        arch: as for `open_source`.
        note: told, in a sentence, of what is fetched.

    Raises:
        SpikeconvError: as `resolve_source` and `open_source`.
    """
    found = _find(source, look_up)
    if isinstance(found, Path):
        if delete_shards:
            raise SpikeconvError(f"{source} was not fetched from the hub; --delete-source-shards deletes nothing else.")
        return open_source(found, trust_remote_code=trust_remote_code, arch=arch)
    check_arch(source, arch)
    _check_folder(found.folder, trust_remote_code)
    return HubSource(found, trust_remote_code=trust_remote_code, delete=delete_shards, note=note)


def _find(source: str, fetch: Callable[[str], T]) -> Path | T:
    """What is here, or what becomes of the id of a model that is not."""
    if Path(source).exists():
        return Path(source)
    if source.startswith("~"):  # quoted, or written as --option=~/…, so that no shell replaced it
        return _below_home(source)
    presets = model_presets()
    if source in presets:
        return _fetch_preset(presets[source], fetch)
    check_source_name(source)
    return fetch(source)


def open_source(path: Path, *, trust_remote_code: bool = False, arch: str | None = None) -> Source:
    """Open a directory, GGUF or .pth file as a source.

    Args:
        path: which.
        trust_remote_code: whether Python code in it may run.
        arch: what a `.pth` file holds that does not tell (`spikegpt`, …).

    Raises:
        SpikeconvError: it is none of these, is damaged, needs Python code of its own and that was not allowed, or is
            not what `arch` says.
    """
    if path.is_file() and path.suffix.lower() == ".gguf":
        from spikeconv.sources.gguf import GgufSource

        check_arch(path, arch)
        return GgufSource(path)
    if path.is_file() and path.suffix.lower() == ".pth":
        from spikeconv.sources.pth import PthSource

        return PthSource(path, arch)
    check_arch(path, arch)
    if not path.is_dir():
        raise SpikeconvError(f"{path} is not a directory, a .gguf or a .pth file.")
    _check_folder(path, trust_remote_code)
    return HfSource(path, trust_remote_code=trust_remote_code)


def _check_folder(path: Path, trust_remote_code: bool) -> None:
    """Refuse what is no model, or brings code of its own that is not allowed."""
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


def _below_home(source: str) -> Path:
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise SpikeconvError(f"{source} cannot be found: {error}.") from None
    if not path.exists():
        raise SpikeconvError(f"{source} ({path}) does not exist.")
    return path


def _fetch_preset(preset: Preset, fetch: Callable[[str], T]) -> Path | T:
    if preset.wheel is None or preset.file is None:
        return fetch(preset.hub)
    if (cached := cached_wheel(preset)) is not None:  # what was used before is used again, so that runs can be compared
        return cached
    try:
        return fetch(preset.hub)
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
