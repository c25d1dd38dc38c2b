"""Where the spikes of a report come from: a recording on disk, or a checkpoint that reads a text now."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.cli.console import err, tracker
from spikeconv.cli.early import given
from spikeconv.errors import SpikeconvError

if TYPE_CHECKING:
    from spikeconv.record.file import Recording
    from spikeconv.record.record import SpikeRecord

__all__ = ["Read", "ReadWhole", "chosen_checkpoint", "read_spikes", "recordings_of"]


RASTER_TOKENS = 64
"""Whose single spikes are kept."""


@dataclass(frozen=True)
class Read:
    """A record, and what it is of.

    Attributes:
        record: what was counted.
        about: `checkpoint`, `text` and `versions`, as `record.json` has them.
        path: the checkpoint, where it read the text now.
    """

    record: "SpikeRecord"
    about: dict[str, Any]
    path: Path | None

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return str((self.about["checkpoint"] or {}).get("name", "a recording"))


@dataclass(frozen=True)
class ReadWhole:
    """A whole recording.

    Attributes:
        recording: with its arrays.
        path: the checkpoint that it is of, where that is at hand.
    """

    recording: "Recording"
    path: Path | None

    @property
    def about(self) -> dict[str, Any]:
        """`checkpoint`, `text` and `versions`."""
        return self.recording.about

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return str((self.about["checkpoint"] or {}).get("name", "recording"))


def read_spikes(
    recording: Path | None,
    checkpoint: Path | None,
    text: Path | None,
    tokens: int,
    *,
    device: str,
    dtype: str = "auto",
    trust_remote_code: bool,
    quiet: bool,
    connections: bool = False,
) -> Read:
    """Read a recording, or let a checkpoint read a text (the bundled sample where there is none).

    Raises:
        SpikeconvError: both are given, or what is given cannot be read.
    """
    if recording is not None:
        if named := given({"CHECKPOINT": checkpoint, "--text": text}):
            raise SpikeconvError(f"A recording has been made: leave {named[0]} out.")
        from spikeconv.record.file import read_recording

        read = read_recording(recording)
        return Read(read.record, read.about, None)

    path = chosen_checkpoint(checkpoint, quiet)

    from spikeconv.data.texts import text_or_sample
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.record.about import about, about_text
    from spikeconv.record.text import record_text

    content, label = text_or_sample(text)
    loaded = load_checkpoint(path, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    seen: Any = {"tokens": tokens, "connections": connections, "track": tracker(quiet)}
    record = record_text(loaded.model, loaded.tokenizer, content, **seen)
    return Read(record, about(loaded.model, path, record, about_text(content, label)), path)


def chosen_checkpoint(checkpoint: Path | None, quiet: bool) -> Path:
    """The checkpoint that is named, or the last converted one; says which.

    Raises:
        SpikeconvError: there is none.
    """
    from spikeconv.checkpoint.folder import resolve_checkpoint

    path = resolve_checkpoint(checkpoint)
    if not quiet:
        err.print("[note]checkpoint {path}[/]", path=path)
    return path


def recordings_of(
    sources: Sequence[Path],
    text: Path | None,
    dataset: str | None,
    tokens: int,
    trains: tuple[str, ...],
    *,
    anew: Sequence[str],
    device: str,
    dtype: str,
    trust_remote_code: bool,
    quiet: bool,
) -> list[ReadWhole]:
    """Read recordings, those of checkpoints if they are still of them, or let the checkpoints read a text.

    Args:
        sources: checkpoints and recordings; none is the last converted checkpoint.
        text, dataset: what to read; the bundled sample if neither.
        tokens: how many at most.
        trains: names or patterns of linears whose spike trains are kept; none: some.
        anew: options that only a checkpoint can follow, which then reads even if it has a recording.
        device, dtype, trust_remote_code: how it is loaded.
        quiet: say nothing of it.

    Raises:
        SpikeconvError: one cannot be read.
    """
    from spikeconv.checkpoint.folder import checkpoint_digest
    from spikeconv.record.file import read_recording
    from spikeconv.record.folder import JSON

    found: list[ReadWhole] = []
    for source in sources or [chosen_checkpoint(None, quiet)]:
        if source.is_file() or (source / JSON).is_file():
            if anew:
                raise SpikeconvError(f"{source} is a recording, which has been made: leave {anew[0]} out.")
            recording, above = read_recording(source), (source.parent if source.is_file() else source).parent
            made_of = (recording.about["checkpoint"] or {}).get("sha256")
            found.append(ReadWhole(recording, above if made_of and made_of == checkpoint_digest(above) else None))
            continue
        path = chosen_checkpoint(source, quiet)
        kept = path / "record"
        if not anew and (kept / JSON).is_file():
            recording = read_recording(kept)
            if (recording.about["checkpoint"] or {}).get("sha256") == checkpoint_digest(path):
                found.append(ReadWhole(recording, path))
                continue
            if not quiet:
                err.print("[note]{kept} is of another checkpoint; recording anew[/]", kept=kept)
        recording = _record_now(path, text, dataset, tokens, trains, device, dtype, trust_remote_code, quiet)
        found.append(ReadWhole(recording, path))
    return found


def _record_now(
    path: Path,
    text: Path | None,
    dataset: str | None,
    tokens: int,
    trains: tuple[str, ...],
    device: str,
    dtype: str,
    trust_remote_code: bool,
    quiet: bool,
) -> "Recording":
    from spikeconv.data.texts import text_or_sample
    from spikeconv.evaluate.models import load_checkpoint
    from spikeconv.record.session import recording_of, some_trains

    content, label = text_or_sample(text, dataset)
    loaded = load_checkpoint(path, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    chosen = (trains or some_trains(loaded.model), RASTER_TOKENS)
    return recording_of(loaded, content, label, tokens, chosen, tracker(quiet))
