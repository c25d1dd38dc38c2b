"""What a conversion has written so far, so that it can go on after anything that stopped it.

Lines of JSON in the scratch folder: first what the conversion was begun with, then every unit that was written, with
the SHA-256 of its tensors. Plain lines and no database: they are only ever appended, a line that was cut off is none,
and no write has to wait for the disk, for what a line says is not believed but compared with the bytes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spikeconv.errors import SpikeconvError

__all__ = ["JOURNAL", "Entry", "Journal", "same_or_raise"]

JOURNAL = ".journal.jsonl"


class Entry(NamedTuple):
    """A unit that was written: SHA-256 by tensor name, and what is to be remembered of it."""

    digests: dict[str, str]
    note: dict[str, Any]


class Journal:
    """Appends to the journal of a folder.

    Args:
        folder: the scratch folder.
        begun_with: what must be the same for the conversion to go on.
        entries: what was written and found to be so, by unit.
    """

    def __init__(self, folder: Path, begun_with: Mapping[str, Any], entries: Mapping[str, Entry]) -> None:
        scratch = folder / f"{JOURNAL}.new"
        with scratch.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"begun_with": begun_with}) + "\n")
            file.writelines(_line(unit, entry) for unit, entry in entries.items())
        os.replace(scratch, folder / JOURNAL)
        self._file = (folder / JOURNAL).open("a", encoding="utf-8")

    def add(self, unit: str, entry: Entry) -> None:
        """Append a unit; it reaches the operating system at once."""
        self._file.write(_line(unit, entry))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(folder: Path) -> tuple[dict[str, Any], dict[str, Entry]] | None:
        """What a conversion was begun with and has written, or None: there is no journal that could be read."""
        try:
            first, *lines = (folder / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
            begun_with = json.loads(first)["begun_with"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(begun_with, dict):
            return None
        entries: dict[str, Entry] = {}
        for line in lines:
            try:
                unit, digests, note = (json.loads(line)[key] for key in ("unit", "sha256", "note"))
            except (ValueError, KeyError, TypeError):  # cut off
                continue
            if isinstance(unit, str) and isinstance(digests, dict) and isinstance(note, dict):
                entries[unit] = Entry(digests, note)
        return begun_with, entries


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting in which two conversions differ, in words."""
    old, new = dict(_flat(before)), dict(_flat(now))
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            return f"{name} {_short(old.get(name))}, now it is {_short(new.get(name))}"
    return None


def same_or_raise(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another conversion.

    Raises:
        SpikeconvError: they differ.
    """
    if (what := _difference(before, now)) is not None:
        raise SpikeconvError(
            f"{folder} holds a conversion that was begun with {what}; --restart starts over, and another --output "
            "leaves it as it is."
        )


def _line(unit: str, entry: Entry) -> str:
    return json.dumps({"unit": unit, "sha256": entry.digests, "note": entry.note}) + "\n"


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(path, json.loads(json.dumps(value)))]
    return [item for key, each in value.items() for item in _flat(each, f"{path}.{key}" if path else str(key))]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
