"""What is compared: converted checkpoints, recordings, float models. Names are looked at before anything is loaded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spikeconv.checkpoint.format import RECORD
from spikeconv.errors import SpikeconvError
from spikeconv.record.folder import JSON as RECORDING
from spikeconv.sources.presets import check_source_name
from spikeconv.untrusted import read_bounded

__all__ = ["Subject", "find_subjects"]

Kind = Literal["checkpoint", "recording", "float"]

CONFIG = "config.json"
MOST_CONFIG = 1 << 26


@dataclass(frozen=True)
class Subject:
    """One column.

    Attributes:
        name: its heading; no two are the same.
        given: as on the command line.
        kind: of what is there.
    """

    name: str
    given: str
    kind: Kind

    @property
    def path(self) -> Path:
        """Where it is, but for a preset or the id of a model on the hub."""
        return Path(self.given).expanduser()


def find_subjects(given: Sequence[str]) -> list[Subject]:
    """What the names on a command line are.

    Raises:
        SpikeconvError: there is nothing of a name, or one is named twice.
    """
    for name in given:
        if given.count(name) > 1:
            raise SpikeconvError(f"{name} is named twice.")
    kinds = [_kind(name) for name in given]
    return [Subject(name, each, kind) for name, each, kind in zip(_headings(given), given, kinds, strict=True)]


def _kind(given: str) -> Kind:
    path = Path(given).expanduser()
    if path.name == RECORDING or (path / RECORDING).is_file():
        if not (path / RECORDING).is_file() and not path.is_file():
            raise SpikeconvError(f"{given} does not exist; `spikeconv record` makes recordings.")
        return "recording"
    if (path / RECORD).is_file() or _is_converted(path / CONFIG):
        return "checkpoint"
    check_source_name(given)
    if path.is_dir() and not (path / CONFIG).is_file():
        raise SpikeconvError(f"{given} is no checkpoint, no recording and no model: it holds no {CONFIG}.")
    return "float"


def _is_converted(config: Path) -> bool:
    try:
        return bool(json.loads(read_bounded(config, MOST_CONFIG))["quantization_config"]["quant_method"] == "spikeconv")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _headings(given: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as tell them apart; what is called `record` belongs to what is above it."""
    parts = [Path(name).expanduser().absolute().parts if Path(name).exists() else (name,) for name in given]
    shown = [2 if each[-1] in ("record", RECORDING) else 1 for each in parts]
    names = ["/".join(each[-count:]) for each, count in zip(parts, shown, strict=True)]
    while len(set(names)) < len(names):
        again = [names.count(name) > 1 for name in names]
        longer = [count + twice for count, twice in zip(shown, again, strict=True)]
        shown = [min(count, len(each)) for count, each in zip(longer, parts, strict=True)]
        before, names = names, ["/".join(each[-count:]) for each, count in zip(parts, shown, strict=True)]
        if names == before:
            raise SpikeconvError(f"{names[again.index(True)]} is named twice.")
    return names
