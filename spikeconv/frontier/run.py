"""Runs a grid, point by point, over what is measured already: an interruption loses only the point it falls into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spikeconv.calibrate.clipping import Clipping
from spikeconv.calibrate.record import ClipRecord
from spikeconv.calibrate.windows import MIXED, Calibration
from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import check_convertible
from spikeconv.conversion.recipe import read_settings
from spikeconv.conversion.wanted import Search
from spikeconv.errors import SpikeconvError
from spikeconv.frontier.grid import FLOAT, Point
from spikeconv.frontier.measure import Measurement, Protocol, measure_conversion, measure_float
from spikeconv.frontier.rows import Frontier, Row
from spikeconv.frontier.store import Store, source_identity
from spikeconv.hashing import sha256_of
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["run_frontier"]


@dataclass(frozen=True)
class Prepared:
    """A point whose settings are read."""

    point: Point
    config: SpikeConfig
    clipping: Clipping
    calibration: Calibration
    search: Search

    @classmethod
    def of(cls, point: Point) -> "Prepared":
        """Read a point's settings.

        Raises:
            SpikeconvError: one is unknown or impossible.
        """
        try:
            return cls(point, *read_settings(point.scheme, point.settings))
        except SpikeconvError as error:
            raise SpikeconvError(f"{point.label}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """All settings, however they were written; texts and records by what they hold."""
        text, clip = self.calibration.calibration, self.clipping
        settings = {
            "config": self.config.model_dump(mode="json"),
            "clipping": clip.model_dump(mode="json"),
            "calibration": self.calibration.model_dump(mode="json"),
            "search": self.search.model_dump(mode="json"),
        }
        if text != MIXED and Path(text).is_file():
            settings["calibration"]["calibration"] = sha256_of(Path(text))
        if clip.clip_text is not None and clip.clip_text.is_file():
            settings["clipping"]["clip_text"] = sha256_of(clip.clip_text)
        if clip.clip_from is not None:
            settings["clipping"]["clip_from"] = ClipRecord.read(clip.clip_from).model_dump(mode="json")
        return settings


def run_frontier(
    source: Source,
    points: Sequence[Point],
    protocol: Protocol,
    folder: Path,
    *,
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
    on_row: Callable[[str, Measurement, bool], None] = lambda label, measured, kept: None,
) -> Frontier:
    """Measure the float model and every point that is not measured yet.

    Args:
        source: the float checkpoint, a file or a folder.
        points: what to convert it to; a point that is impossible with this source is left out.
        protocol: how to measure.
        folder: measurements are kept there (see `Store`).
        track: progress display.
        note: told, in a sentence, what is going on.
        on_row: called with label and measurement of each point, and whether it was kept from an earlier run.

    Raises:
        SpikeconvError: the source is converted already or cannot be read, settings of a point are unknown, the folder
            holds something else, or no point can be measured.
        KeyboardInterrupt: with a sentence that says how many points are kept.
    """
    check_convertible(source.config, str(source.path))
    store, prepared = Store(folder), [Prepared.of(point) for point in points]
    common = {"source": source_identity(source), "protocol": protocol.identity()}
    rows, left_out = [], {}

    def measured(label: str, settings: dict[str, Any] | None, measure: Callable[[], Measurement]) -> Measurement:
        identity = {**common, "settings": settings}
        try:
            found = store.read(identity)
        except (OSError, ValueError):
            note(f"{store.path(identity)} cannot be read; {label} is measured again.")
            found = None
        kept = found is not None
        if found is None:
            found = measure()
            store.write(identity, label, found)
        on_row(label, found, kept)
        return found

    try:
        note(f"{FLOAT} (1 of {len(prepared) + 1})")
        reference = measured(FLOAT, None, lambda: measure_float(source, protocol, track=track))
        rows.append(Row(FLOAT, FLOAT, reference, None))
        for number, each in enumerate(prepared, 2):
            label = each.point.label
            note(f"{label} ({number} of {len(prepared) + 1})")
            try:
                settings = each.identity()
                found = measured(label, settings, partial(_convert, source, each, protocol, track, note))
            except SpikeconvError as error:
                left_out[label] = str(error)
                note(f"{label} is left out: {error}")
            else:
                rows.append(Row(label, each.point.mark, found, settings))
    except KeyboardInterrupt:
        done = f"{len(rows)} of {len(prepared) + 1} points are in {folder}; the same command goes on from there"
        raise KeyboardInterrupt(done) from None
    if left_out and len(rows) == 1:
        label, reason = next(iter(left_out.items()))
        raise SpikeconvError(f"No point of the grid can be measured. {label}: {reason}")
    return Frontier(tuple(rows), left_out)


def _convert(
    source: Source, each: Prepared, protocol: Protocol, track: Track, note: Callable[[str], None]
) -> Measurement:
    settings = each.config, each.clipping, each.calibration, each.search
    return measure_conversion(source, *settings, protocol, track=track, note=note)
