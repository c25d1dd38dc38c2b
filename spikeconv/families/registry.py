"""Finds the family of a checkpoint. The registry is the list of files in this folder that define `FAMILY`."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.families.base import Family
from spikeconv.suggest import did_you_mean

__all__ = ["FAMILIES", "family_of", "find_family"]

NOT_FAMILIES = ("base", "modules", "native", "norm", "registry")


def _collect() -> dict[str, Family]:
    package = __package__
    names = (info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__))
    modules = (importlib.import_module(f"{package}.{name}") for name in names if name not in NOT_FAMILIES)
    return {module.FAMILY.model_type: module.FAMILY for module in modules}


FAMILIES: dict[str, Family] = _collect()
"""Families by `model_type`."""


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a `config.json`.

    Raises:
        SpikeconvError: the architecture is not supported; the message lists those that are and the nearest name.
    """
    model_type = str(config.get("model_type", ""))
    named = config.get("architectures") or []
    architectures = named if isinstance(named, list | tuple) else [named]
    family = FAMILIES.get(model_type)
    if family and (not architectures or {family.architecture, *family.heads} & set(map(str, architectures))):
        return family
    found = architectures[0] if architectures else model_type or "nothing"
    supported = sorted(f.architecture for f in FAMILIES.values())
    hint = did_you_mean(str(found), supported, cutoff=0.5)
    raise SpikeconvError(f"Architecture {found} is not supported.{hint} Supported: {', '.join(supported)}.")


def family_of(model: Any) -> Family:
    """The family of a transformers model, whichever of its classes that is (with an output head or without).

    Raises:
        SpikeconvError: as `find_family`.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise SpikeconvError(f"A {type(model).__name__} is no model of transformers: it has no config.")
    config = config.get_text_config()
    return FAMILIES.get(config.model_type) or find_family(config.to_dict())
