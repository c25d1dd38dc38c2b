"""Where the spikes of a report come from: a recording on disk, or a checkpoint that reads a text now."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeconv.cli.console import err, tracker
from spikeconv.cli.early import given
from spikeconv.errors import SpikeconvError

if TYPE_CHECKING:
    from spikeconv.record.record import SpikeRecord

__all__ = ["Read", "chosen_checkpoint", "read_spikes"]


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
    record = record_text(loaded.model, loaded.tokenizer, content, tokens=tokens, track=tracker(quiet))
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
