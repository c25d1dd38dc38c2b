"""Turns the options of `convert` into one `SpikeConfig`: scheme file, then options, then `--set`."""

from pathlib import Path
from typing import Any

import yaml

from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.sources.presets import load_scheme

__all__ = ["build_config", "model_name", "split"]


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
        options: command-line options by field (or `bits`, `steps`); None means not given.
        assignments: `key=value` texts; highest priority.
        skip: patterns, added to those of the scheme.
        overrides: `PATTERN:key=value` texts, added to those of the scheme.

    Raises:
        SpikeconvError: a text is malformed or a field is unknown or out of range.
    """
    values = load_scheme(scheme) if scheme else {}
    given = {key: value for key, value in options.items() if value is not None}
    given |= dict(_assignment(text, "--set") for text in assignments)
    if "bits" in given:  # a new scheme name replaces the file's, whichever way that one is written
        values = {k: v for k, v in values.items() if k not in ("bits", "steps", "weight_bits", "spikes", "count_bits")}
    values |= given
    values["skip"] = [*values.get("skip", []), *skip]
    values["overrides"] = [*values.get("overrides", []), *(_override(text) for text in overrides)]
    return SpikeConfig.parse(values)


def model_name(source: str) -> str:
    """What outputs are called after: the last part of a preset, hub id or path, without the suffix of a model file."""
    return Path(source).stem if source.endswith((".gguf", ".pth")) else Path(source).name


def split(names: str | None) -> tuple[str, ...]:
    """The names in a text like `q,k,v`."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _assignment(text: str, option: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpikeconvError(f"{option} {text}: expected key=value.")
    key = key.strip().replace("-", "_")
    # `4-1.58` and `16` must stay what they look like, so YAML's scalar rules decide the type.
    return key, value if key == "bits" else yaml.safe_load(value)


def _override(text: str) -> dict[str, Any]:
    pattern, colon, settings = text.partition(":")
    if not colon or not pattern:
        raise SpikeconvError(f"--override {text}: expected PATTERN:key=value, as in down:bits=6-1.58.")
    return {
        "pattern": pattern,
        "settings": dict(_assignment(part, "--override") for part in settings.split(",")),
    }
