"""A recording on disk: `record.json`, which says what of and what with, and arrays in `record.npz` beside it.

record.json     format, checkpoint, text, versions; the record: histograms of counts, tokens, shapes, settings
record.npz      position_spikes float32 [encoders, positions]   mean spikes of an input
                potentials int64 [encoders, bins], potential_edges float32 [bins + 1]   in units of a token's RMS
                encoders   names: the first linear of each
                raster:NAME int8 [slots, tokens, inputs]         spike trains of chosen linears
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeconv.config import KvSettings, LinearScheme, parse_settings
from spikeconv.errors import SpikeconvError
from spikeconv.plain import write_json
from spikeconv.record.folder import ARRAYS, JSON, find_recording
from spikeconv.record.neurons import NeuronRecord
from spikeconv.record.record import CacheRecord, LayerRecord, SpikeRecord
from spikeconv.untrusted import read_bounded

__all__ = ["FORMAT", "Recording", "read_recording", "write_recording"]

FORMAT = 1
MOST_BYTES = 1 << 30

Array = NDArray[Any]


@dataclass(frozen=True)
class Recording:
    """A record, with what it is of.

    Attributes:
        record: what was counted.
        about: `checkpoint` (name, settings, SHA-256 of what it computes), `text` (what, SHA-256, tokens), `versions`.
        arrays: see above, by name.
    """

    record: SpikeRecord
    about: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


def write_recording(folder: Path, recording: Recording) -> None:
    """Write a recording into a folder, each file whole or not at all; an earlier one is replaced.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{ARRAYS}.incomplete.npz"
    try:
        np.savez_compressed(scratch, **recording.arrays)  # type: ignore[arg-type]
        scratch.replace(folder / ARRAYS)
    finally:
        scratch.unlink(missing_ok=True)
    record = recording.record.to_dict()
    for part in (*record["layers"], *record["cache"].values()):
        part["histogram"] = {count: times for count, times in part["histogram"].items() if times}
    write_json(folder / JSON, {"format": FORMAT, **recording.about, "record": record})


def read_recording(path: Path) -> Recording:
    """Read a recording from its folder, or from its `record.json`.

    Raises:
        SpikeconvError: there is none, it is damaged, or of another format.
    """
    file = find_recording(path)
    try:
        content = json.loads(read_bounded(file, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise SpikeconvError(f"{file} cannot be read: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SpikeconvError(f"{file} is no recording of format {FORMAT}; record again.")
    try:
        record = _record(content["record"])
    except (SpikeconvError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpikeconvError(f"{file} is damaged ({type(error).__name__}: {error}); record again.") from None
    about = {name: content.get(name) for name in ("checkpoint", "text", "versions")}
    return Recording(record, about, _arrays(file.with_name(ARRAYS)))


def _arrays(file: Path) -> dict[str, Array]:
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # zip, zlib, header and dtype errors each have a type of their own
        raise SpikeconvError(f"{file} is damaged: {error}; record again.") from None


def _record(values: dict[str, Any]) -> SpikeRecord:
    layers = tuple(
        LayerRecord(**{**each, "scheme": parse_settings(LinearScheme, each["scheme"]), "histogram": _histogram(each)})
        for each in values["layers"]
    )
    cache = {
        str(kind): CacheRecord(
            **{**each, "scheme": parse_settings(KvSettings, each["scheme"]), "histogram": _histogram(each)}
        )
        for kind, each in values["cache"].items()
    }
    return SpikeRecord(
        family=str(values["family"]),
        sequences=tuple(map(int, values["sequences"])),
        layers=layers,
        cache=cache,
        float_linears=tuple((int(width), int(height)) for width, height in values["float_linears"]),
        float_macs={str(name): int(count) for name, count in values["float_macs"].items()},
        neurons=tuple(NeuronRecord(**each) for each in values["neurons"]),
        streams=int(values["streams"]),
        footprint=None if values.get("footprint") is None else int(values["footprint"]),
    )


def _histogram(values: dict[str, Any]) -> dict[int, int]:
    found = {int(count): int(times) for count, times in values["histogram"].items()}
    if any(times < 0 for times in found.values()) or any(abs(count) > 1 << 15 for count in found):
        raise ValueError("a histogram with impossible counts")
    return found
