"""Mistakes in arguments that can be seen before torch is imported, which takes seconds."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spikeconv.data.offline import OFFLINE_TASKS
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.names import ALIASES
from spikeconv.families import FAMILIES
from spikeconv.sources.presets import check_source_name, model_presets
from spikeconv.suggest import no_such_linear
from spikeconv.untrusted import read_bounded

__all__ = ["check_arguments", "check_extra", "check_roles", "check_spiking", "given"]

MOST_CONFIG = 1 << 24


def given(options: dict[str, Any]) -> list[str]:
    """The names of options that the command line has: those with a value."""
    return [name for name, value in options.items() if value is not None]


def check_arguments(command: str | None, values: dict[str, Any]) -> None:
    """Check the names of sources and checkpoints of any command.

    Raises:
        SpikeconvError: there is nothing of a name.
    """
    if isinstance(source := values.get("source"), str):
        check_source_name(source)
    path = values.get("checkpoint")
    if isinstance(path, Path) and not any((path / name).is_file() for name in ("spikeconv.json", "config.json")):
        if command == "eval" and (str(path) in OFFLINE_TASKS or str(path) in ALIASES):
            tasks = values.get("tasks") or "piqa"
            raise SpikeconvError(f"{path} is no checkpoint; tasks are joined by commas: --tasks {tasks},{path}.")
        raise SpikeconvError(
            f"{path} is not a converted checkpoint (no spikeconv.json in it); run `spikeconv convert` first."
        )


def check_extra(extra: str, packages: Iterable[str]) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        SpikeconvError: one is not.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise SpikeconvError(f"{' and '.join(missing)} must be installed for this: pip install 'spikeconv[{extra}]'.")


def check_spiking(sources: Iterable[Path]) -> None:
    """Check that each is a converted checkpoint or a recording, as far as names of files tell.

    Raises:
        SpikeconvError: one is neither.
    """
    for path in sources:
        held = ("record.json", "spikeconv.json", "config.json")
        if not (path.is_file() and path.suffix == ".json") and not any((path / name).is_file() for name in held):
            raise SpikeconvError(
                f"{path} is neither a converted checkpoint (no spikeconv.json in it) nor a recording (no record.json); "
                "`spikeconv convert` makes the one, `spikeconv record` the other."
            )


def check_roles(source: str, options: dict[str, Iterable[str]]) -> None:
    """Check plain words among patterns against the roles of a source whose configuration is at hand.

    Args:
        source: as on the command line.
        options: patterns by the option that they were given with.

    Raises:
        SpikeconvError: one is no role.
    """
    family = FAMILIES.get(str(_config(source).get("model_type")))
    for option, patterns in options.items() if family is not None else ():
        for pattern in patterns:
            if family is not None and pattern.isidentifier() and pattern not in family.roles:
                raise no_such_linear(f"{option} {pattern}", pattern, source, family.roles)


def _config(source: str) -> dict[str, Any]:
    """What is known of a source at once; nothing is fetched, and what cannot be read is read again later."""
    presets = model_presets()
    if source in presets and not Path(source).exists():
        return presets[source].config or {}
    try:
        found = json.loads(read_bounded(Path(source) / "config.json", MOST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
