"""What a conversion has written so far, so that it can go on after anything that stopped it.

Lines of JSON in the scratch folder, each behind its checksum: first what the conversion was begun with, then every unit
that was written, with the hashes of its tensors. Plain lines and no database: they are only ever appended, a line that
was cut off or changed is none, and no write has to wait for the disk, for what a line says of bytes is compared with
them. Several processes that write one checkpoint have a journal each beside the first.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spikeconv.errors import SpikeconvError

__all__ = ["JOURNAL", "Entry", "Journal", "same_or_raise"]

JOURNAL = ".journal.jsonl"


class Entry(NamedTuple):
    """A unit that was written.

    Attributes:
        digests: hashes of its tensors, by name.
        note: what is to be remembered of it.
        read: hashes of tensors of the source that were read by then, by name.
    """

    digests: dict[str, str]
    note: dict[str, Any]
    read: dict[str, str]


class Journal:
    """Appends to the journal of a folder.

    Args:
        folder: the scratch folder.
        begun_with: what must be the same for the conversion to go on.
        entries: what was written and found to be so, by unit.
        owner: of several, whose journal it is; every line then waits for the disk, as others read it from there.
    """

    def __init__(
        self, folder: Path, begun_with: Mapping[str, Any], entries: Mapping[str, Entry], owner: str | None = None
    ) -> None:
        name = JOURNAL if owner is None else f"{JOURNAL}.{owner}"
        self._waits = owner is not None
        scratch = folder / f"{name}.new"
        with scratch.open("w", encoding="utf-8") as file:
            file.write(_line({"begun_with": begun_with}))
            file.writelines(_line(_values(unit, entry)) for unit, entry in entries.items())
        os.replace(scratch, folder / name)
        self._file = (folder / name).open("a", encoding="utf-8")

    def add(self, unit: str, entry: Entry) -> None:
        """Append a unit; it reaches the operating system at once."""
        self._file.write(_line(_values(unit, entry)))
        self._file.flush()
        if self._waits:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(folder: Path) -> tuple[dict[str, Any], dict[str, Entry]] | None:
        """What a conversion was begun with and has written, or None: there is no journal that could be read.

        What others wrote down of the same conversion belongs to it.
        """
        if (first := Journal.contents(folder / JOURNAL)) is None:
            return None
        begun_with, entries = first
        for path in sorted(folder.glob(f"{JOURNAL}.*")):
            if (other := Journal.contents(path)) is not None and other[0] == begun_with:
                entries = other[1] | entries
        return begun_with, entries

    @staticmethod
    def contents(path: Path) -> tuple[dict[str, Any], dict[str, Entry]] | None:
        """What one file says, or None: it cannot be read."""
        try:
            first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            begun_with = _read(first)["begun_with"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(begun_with, dict):
            return None
        entries: dict[str, Entry] = {}
        for line in lines:
            try:
                values = _read(line)
                unit, *rest = (values[key] for key in ("unit", "hashes", "note", "read"))
            except (ValueError, KeyError, TypeError):  # cut off, or changed
                continue
            if isinstance(unit, str) and all(isinstance(each, dict) for each in rest):
                entries[unit] = Entry(*rest)
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


def _values(unit: str, entry: Entry) -> dict[str, Any]:
    return {"unit": unit, "hashes": entry.digests, "note": entry.note, "read": entry.read}


def _line(values: Mapping[str, Any]) -> str:
    text = json.dumps(values)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _read(line: str) -> Any:
    """The values of a line.

    Raises:
        ValueError: it is not what was written.
    """
    checksum, _, text = line.partition(" ")
    if checksum != f"{zlib.crc32(text.encode(errors='surrogateescape')):08x}":
        raise ValueError("another checksum")
    return json.loads(text)


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(path, json.loads(json.dumps(value)))]
    return [item for key, each in value.items() for item in _flat(each, f"{path}.{key}" if path else str(key))]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
