"""What is known of each thing that is compared: settings, size, what it was made from, spikes, results."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spikeconv.checkpoint.folder import checkpoint_digest, has_record, read_record
from spikeconv.checkpoint.format import read_settings
from spikeconv.checkpoint.origin import base_of, source_name
from spikeconv.comparison.subjects import Subject
from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.stored import Stored, float_digest, stored_results
from spikeconv.record.file import Recording, read_recording
from spikeconv.record.folder import JSON
from spikeconv.report.work import Work, recorded_work
from spikeconv.sources.base import Source
from spikeconv.sources.json_file import read_json
from spikeconv.sources.resolve import open_named

__all__ = ["Column", "different_models", "float_results", "gather", "text_of"]


@dataclass
class Column:
    """One column.

    Attributes:
        subject: what it is of.
        base: what it was made from, or is.
        bases: what tells whether that is the same as another's.
        config: settings; None of a float model.
        size: bytes of its weights on disk; None of a recording.
        bits_per_weight: of converted weights.
        digest: what `checkpoint_digest` or `float_digest` says.
        source: the float model, opened.
        work: operations over `tokens`, and what the text was.
        results: by their question.
        others: files of results that are of another checkpoint.
        prefill, decode: tokens a second.
        compute: dtype and device of what was run for it now.
    """

    subject: Subject
    base: str
    bases: set[str]
    config: SpikeConfig | None = None
    size: int | None = None
    bits_per_weight: float | None = None
    digest: str | None = None
    source: Source | None = None
    recording: Recording | None = None
    work: list[Work] | None = None
    tokens: int = 0
    results: dict[str, Stored] = field(default_factory=dict)
    baselines: dict[str, tuple[Stored, ...]] = field(default_factory=dict)
    others: tuple[Path, ...] = ()
    prefill: float | None = None
    decode: float | None = None
    compute: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its heading."""
        return self.subject.name

    def take(self, recording: Recording) -> None:
        """Let its spikes be those of a recording."""
        self.recording, self.work = recording, recorded_work(recording.record)
        self.tokens = recording.record.tokens

    def add(self, results: Iterable[Stored]) -> None:
        """Note results; of several answers to one question the newest counts."""
        for each in results:
            held = self.results.get(each.question)
            if held is None or _time(each.file) >= _time(held.file):
                self.results[each.question] = each


def gather(subject: Subject, *, trust_remote_code: bool = False) -> Column:
    """What is known without running anything.

    Raises:
        SpikeconvError: it cannot be read.
    """
    if subject.kind == "recording":
        return _of_recording(subject)
    return _of_checkpoint(subject) if subject.kind == "checkpoint" else _of_float(subject, trust_remote_code)


def _of_recording(subject: Subject) -> Column:
    recording = read_recording(subject.path)
    checkpoint = recording.about["checkpoint"] or {}
    base = checkpoint.get("base") or {}
    name = str(base.get("name") or "unknown")
    column = Column(subject, name, {str(base["sha256"])} if base.get("sha256") else {f"unknown {subject.name}"})
    if isinstance(settings := checkpoint.get("settings"), dict):
        column.config = read_settings(settings)
    column.digest = checkpoint.get("sha256")
    column.take(recording)
    return column


def _of_checkpoint(subject: Subject) -> Column:
    path = subject.path
    settings = read_json(path / "config.json").get("quantization_config")
    if not isinstance(settings, dict):
        raise SpikeconvError(
            f"{path / 'config.json'} has no quantization_config; copy or convert the checkpoint again."
        )
    found, base = stored_results(path), base_of(path)
    column = Column(subject, "unknown", {f"unknown {subject.name}"}, read_settings(settings))
    column.size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    column.digest, column.others, column.baselines = checkpoint_digest(path), found.others, found.baseline
    column.add(found.results)
    if base is not None and has_record(path):
        record = read_record(path)
        column.base = str(base["name"])
        column.bases = {each for each in (base["sha256"], record["source"]["path"]) if each is not None}
        bits = record.get("bits_per_weight")
        column.bits_per_weight = float(bits) if isinstance(bits, int | float) else None
    if (path / "record" / JSON).is_file():
        recording = read_recording(path / "record")
        if column.digest is not None and (recording.about["checkpoint"] or {}).get("sha256") == column.digest:
            column.take(recording)
        else:
            column.others = (*column.others, path / "record" / JSON)
    return column


def _of_float(subject: Subject, trust_remote_code: bool) -> Column:
    source = open_named(subject.given, trust_remote_code=trust_remote_code)
    origin = source.origin()
    column = Column(subject, source_name(origin), set() if origin is None else {origin}, source=source)
    column.size, column.digest = source.size(), float_digest(source.path)
    return column


def float_results(columns: Iterable[Column]) -> None:
    """Give float models what was measured of them as baselines of the checkpoints beside them."""
    columns = list(columns)
    for column in columns:
        if column.source is not None and column.digest is not None:
            for other in columns:
                column.add(other.baselines.get(column.digest, ()))


def text_of(recording: Recording) -> tuple[object, ...]:
    """Equal for recordings of the same text, or documents, and as many tokens."""
    text: dict[str, Any] = recording.about["text"] or {}
    return text.get("sha256") or text.get("what"), text.get("limit"), recording.record.tokens


def different_models(columns: Iterable[Column]) -> list[list[str]]:
    """Names of the columns in groups that were made from the same model."""
    groups: list[tuple[set[str], list[str]]] = []
    for column in columns:
        same = [group for group in groups if group[0] & column.bases]
        joined = set(column.bases).union(*(group[0] for group in same))
        groups = [group for group in groups if group not in same]
        groups.append((joined, [name for _, names in same for name in names] + [column.name]))
    return [names for _, names in groups]


def _time(file: Path | None) -> float:
    return float("inf") if file is None else file.stat().st_mtime
