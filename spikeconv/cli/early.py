"""Mistakes in arguments that can be seen before torch is imported, which takes seconds.

Arguments of one name mean the same in every command, so they are checked here, by name; what only one command knows it
checks itself, before its own imports of torch.
"""

import json
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spikeconv.calibrate.record import ClipRecord
from spikeconv.checkpoint.folder import has_record, read_record, resolve_checkpoint
from spikeconv.checkpoint.format import RECORD
from spikeconv.choices import (
    check_cache_dtype,
    check_device,
    check_dtype,
    check_engine,
    check_execution,
    check_temperature,
)
from spikeconv.cli.settings import split
from spikeconv.data.texts import check_dataset, check_text
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.names import check_data
from spikeconv.families import FAMILIES
from spikeconv.placing import check_folder, parse_limits
from spikeconv.record.folder import JSON, find_recording
from spikeconv.sizes import parse_size
from spikeconv.sources.presets import DEFAULT_MODEL, check_source_name, model_presets
from spikeconv.sources.pth_layouts import check_arch
from spikeconv.suggest import matching, no_such_linear
from spikeconv.untrusted import read_bounded

__all__ = ["check_arguments", "check_extra", "check_linears", "check_roles", "check_spiking", "given"]

MOST_CONFIG = 1 << 24

CHECKS: dict[str, Callable[[Any], object]] = {
    "source": check_source_name,
    "made_from": check_source_name,
    "model": check_source_name,
    "device": check_device,
    "dtype": check_dtype,
    "execution": check_execution,
    "cache_dtype": check_cache_dtype,
    "engine": check_engine,
    "temperature": check_temperature,
    "text": check_text,
    "clip_text": lambda file: check_text(file, "--clip-text"),
    "dataset": check_dataset,
    "data": check_data,
    "recording": find_recording,
    "clip_from": ClipRecord.read,
    "max_memory": lambda size: parse_size(size, "--max-memory"),
    "memory_limits": parse_limits,
    "offload_folder": check_folder,
    "max_shard_size": lambda size: parse_size(size, "--max-shard-size"),
}
"""What an argument of each name must pass."""


def given(options: dict[str, Any]) -> list[str]:
    """The names of options that the command line has: those with a value."""
    return [name for name, value in options.items() if value is not None]


def check_arguments(values: dict[str, Any], hint: Callable[[str], str] = lambda word: "") -> None:
    """Check what any command was given.

    Args:
        values: by the parameter's name.
        hint: what may be meant by a word that names neither a source nor a checkpoint.

    Raises:
        SpikeconvError: something is not there, or not what it should be.
    """
    for name, check in CHECKS.items():
        value = values.get(name)
        if isinstance(value, str | Path | float):  # no flag, as `--model` of one command
            try:
                check(value)
            except SpikeconvError as error:
                raise SpikeconvError(f"{error}{hint(str(value)) if name == 'source' else ''}") from None
    checkpoint = values.get("checkpoint")
    if isinstance(checkpoint, Path):
        try:
            resolve_checkpoint(checkpoint)
        except SpikeconvError as error:
            raise SpikeconvError(f"{error}{hint(str(checkpoint))}") from None
    if "execution" in values and values["execution"] is None:
        check_execution(os.environ.get("SPIKECONV_EXEC", "auto"))
    source = values.get("source") or values.get("clip_from") or DEFAULT_MODEL
    check_arch(source, values.get("arch"))
    overrides = [text.partition(":")[0] for text in values.get("override") or ()]
    patterns = {"--skip": values.get("skip") or (), "--override": overrides}
    check_roles(str(source), {**patterns, "--clip-roles": split(values.get("clip_roles"))})


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
        held = (JSON, RECORD, "config.json")
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


def check_linears(path: Path, patterns: list[str] | None) -> None:
    """Check patterns against the linears in the record of a checkpoint, where there is one.

    Raises:
        SpikeconvError: one means none of them.
    """
    if patterns and has_record(path) and isinstance(layers := read_record(path).get("layers"), dict):
        matching(layers, patterns)


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
