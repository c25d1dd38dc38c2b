"""A recording on disk: `record.json`, which says what of and what with, and arrays in `record.npz` beside it.

record.json     format, checkpoint, text, versions; the record: histograms of counts, tokens, shapes, settings
record.npz      position_spikes float32 [encoders, positions]   mean spikes of an input
                potentials int64 [encoders, bins], potential_edges float32 [bins + 1]   in units of a token's RMS
                alternatives int64 [encoders, 3, 16]    counts by SDLLM's encoders (asymmetric, symmetric, clipped)
                encoders   names: the first linear of each
                raster:NAME int8 [slots, tokens, inputs]         spike trains of chosen linears
                raster_tokens      their tokens as text
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeconv.config import FloatInputs, KvSettings, LinearScheme, parse_settings
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
    arrays = _arrays(file.with_name(ARRAYS))
    if odd := next((name for name, array in arrays.items() if not _fits(name, array, arrays, record)), None):
        raise SpikeconvError(f"{file.with_name(ARRAYS)} does not belong to {file}: {odd}; record again.")
    return Recording(record, about, arrays)


def _fits(name: str, array: Array, arrays: dict[str, Array], record: SpikeRecord) -> bool:
    """Whether an array has the shape and kind that the head of this file says, for that record."""
    layers = {layer.name: layer for layer in record.layers}
    rows = arrays["encoders"].shape if "encoders" in arrays else (0,)
    whole, numbers = array.dtype.kind in "iu", array.dtype.kind == "f"
    if name == "encoders":
        return array.ndim == 1 and array.dtype.kind == "U" and len(set(array.tolist())) == array.size
    if name == "raster_tokens":
        return array.ndim == 1 and array.dtype.kind == "U"
    if name == "potential_edges":
        return numbers and array.ndim == 1 and array.size > 1 and bool((np.diff(array) > 0).all())
    if name == "position_spikes":
        return numbers and array.ndim == 2 and array.shape[:1] == rows and not bool((array < 0).any())
    if name == "potentials":
        bins = arrays["potential_edges"].size - 1 if "potential_edges" in arrays else 0
        return whole and array.shape == (*rows, bins) and not bool((array < 0).any())
    if name == "alternatives":
        return whole and array.shape == (*rows, 3, 16) and not bool((array < 0).any())
    layer = layers.get(name.removeprefix("raster:"))
    trains = array.ndim == 3 and array.dtype == np.int8 and layer is not None and array.shape[2] == layer.in_features
    return trains and name.startswith("raster:") and bool((np.abs(array.astype(np.int16)) <= 1).all())


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
    for layer in layers:
        _check_counts(layer)
    if sum(values["sequences"]) < 1 or any(macs < 0 for macs in values["float_macs"].values()):
        raise ValueError("no tokens, or fewer than no operations")
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


def _check_counts(layer: LayerRecord) -> None:
    """Refuse counts that the settings do not make, or more or fewer than there were inputs."""
    inputs = layer.scheme.inputs
    most = 0 if isinstance(inputs, FloatInputs) else inputs.largest_count
    if any(abs(count) > most for count in layer.histogram):
        raise ValueError(f"{layer.name} has counts beyond {most}")
    if min(layer.tokens, layer.planes, layer.in_features, layer.out_features) < 1:
        raise ValueError(f"{layer.name} has seen nothing")
    if sum(layer.histogram.values()) != layer.inputs * layer.planes or layer.inputs != layer.tokens * layer.in_features:
        raise ValueError(f"the counts of {layer.name} are not as many as its inputs")


def _histogram(values: dict[str, Any]) -> dict[int, int]:
    found = {int(count): int(times) for count, times in values["histogram"].items()}
    if any(times < 0 for times in found.values()) or any(abs(count) > 1 << 15 for count in found):
        raise ValueError("a histogram with impossible counts")
    return found
