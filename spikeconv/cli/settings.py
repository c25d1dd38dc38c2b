"""Turns the options of `convert` into one `SpikeConfig`: scheme file, then options, then `--set`."""

from pathlib import Path
from typing import Any

from spikeconv.config import SpikeConfig
from spikeconv.config.paths import merge, nest
from spikeconv.errors import SpikeconvError
from spikeconv.sources.presets import load_scheme
from spikeconv.yaml_text import parse_yaml

__all__ = ["build_config", "model_name", "number", "split"]


def build_config(
    scheme: str | None,
    options: dict[str, Any],
    assignments: list[str],
    skip: list[str],
    overrides: list[str],
) -> SpikeConfig:
    """The settings of a conversion.

    Args:
        scheme: YAML file or scheme name; lowest priority.
        options: command-line options by short name or path of the setting; None means not given.
        assignments: `key=value` texts; highest priority.
        skip: patterns, added to those of the scheme.
        overrides: `PATTERN:key=value` texts, added to those of the scheme.

    Raises:
        SpikeconvError: a text is malformed or a setting is unknown or out of range.
    """
    file = {} if scheme is None else load_scheme(scheme)
    # Options and assignments are one layer, so that `--steps 16 --set bits=4-1.58` means what it says.
    values = _nested({key: value for key, value in options.items() if value is not None})
    for text in assignments:
        values = merge(values, _nested(dict([_assignment(text, "--set")])))
    said = {**file, **values}
    values["skip"] = [*_list("skip", said), *skip]
    values["overrides"] = [*_list("overrides", said), *(_override(text) for text in overrides)]
    return SpikeConfig.parse(file, values)


def model_name(source: str) -> str:
    """What outputs are called after: the last part of a preset, hub id or path, without the suffix of a model file."""
    return Path(source).stem if source.endswith((".gguf", ".pth")) else Path(source).name


def number(option: str, text: str) -> float:
    """The number in the text of an option that takes words too.

    Raises:
        SpikeconvError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise SpikeconvError(f"{option} {text[:40]}: expected a number or auto.") from None


def split(names: str | None) -> tuple[str, ...]:
    """The names in a text like `q,k,v`."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return nest(values)
    except ValueError as error:
        raise SpikeconvError(str(error)) from None


def _list(name: str, values: dict[str, Any]) -> list[Any]:
    value = values.get(name, [])
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        raise SpikeconvError(f"{name} must be a list, not {type(value).__name__}.")
    return list(value)


def _assignment(text: str, option: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise SpikeconvError(f"{option} {text}: expected key=value.")
    if key == "bits":  # `4-1.58` and `16` must stay what they look like; elsewhere YAML's rules decide the type
        return key, value
    return key, parse_yaml(value, f"{option} {text[:80]}")


def _override(text: str) -> dict[str, Any]:
    pattern, colon, settings = text.partition(":")
    if not colon or not pattern:
        raise SpikeconvError(f"--override {text}: expected PATTERN:key=value, as in down:bits=6-1.58.")
    return {
        "pattern": pattern,
        "settings": dict(_assignment(part, "--override") for part in settings.split(",")),
    }
