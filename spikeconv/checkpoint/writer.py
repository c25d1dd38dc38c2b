"""Where converted tensors go: at their places in shards that are laid out first, in a scratch folder that becomes the
checkpoint at the end.

Units may come in any order and from several threads. Until the end the output is as it was; what was written stays in
the scratch folder when the conversion is stopped, and the same conversion goes on with it (see `journal`).
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.journal import JOURNAL, Entry, Journal, same_or_raise
from spikeconv.checkpoint.layout import Layout
from spikeconv.checkpoint.lock import OWNER
from spikeconv.checkpoint.scratch import Scratch
from spikeconv.checkpoint.shards import ShardFiles
from spikeconv.hashing import digest_of
from spikeconv.plain import write_json
from spikeconv.sources.weight_files import INDEX

__all__ = ["Sink"]


class Sink(Scratch):
    """Takes the tensors of a converted checkpoint; `commit` publishes it.

    Args:
        target: the folder to create.
        layout: what will be written.
        begun_with: what must be the same for a conversion that was stopped to go on.
        force: replace an existing checkpoint.
        restart: begin anew, whatever is there.
        sealed: told of the folder when all of it is on the disk, before it stops being a conversion that can go on.

    Attributes:
        done: the units that were found written when the context was entered.

    Raises:
        SpikeconvError: as `Scratch`, or another conversion to the same target was begun.
    """

    def __init__(
        self,
        target: Path,
        layout: Layout,
        begun_with: Mapping[str, Any],
        *,
        force: bool = False,
        restart: bool = False,
        sealed: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        super().__init__(target, RECORD, force=force)
        self._layout, self._begun_with, self._restart = layout, dict(begun_with), restart
        self._files, self._sealed = ShardFiles(layout), sealed
        self._lock = threading.Lock()
        self._written: dict[str, Entry] = {}
        self._journal: Journal | None = None
        self.done: dict[str, Entry] = {}

    def prepare(self) -> None:
        """Go on with what is in the scratch folder, or lay the shards out."""
        found = None if self._restart else Journal.read(self.scratch)
        if found is not None:
            same_or_raise(self.scratch, found[0], self._begun_with)
            Journal(
                self.scratch, *found
            ).close()  # what several had written down goes into one before theirs are cleared
        kept = {*self._layout.sizes, JOURNAL, OWNER} if found else {OWNER}
        self.clear(kept)
        self._files.create(self.scratch)
        if found is not None:
            self.done = {unit: entry for unit, entry in found[1].items() if self._files.holds(entry.digests)}
        self._written = dict(self.done)
        self._journal = Journal(self.scratch, self._begun_with, self.done)

    def keeps(self, kind: type[BaseException]) -> bool:
        """A conversion that was stopped, or ran out of disk or memory, can go on; one that failed would fail again."""
        return bool(self._written) and issubclass(kind, KeyboardInterrupt | OSError | MemoryError)

    def is_stale(self) -> bool:
        """Without a journal nothing can go on: it may be an old checkpoint that was replaced."""
        return Journal.read(self.scratch) is None

    def seal(self) -> None:
        """Last, the journal: until then, the same command goes on whatever happens."""
        self._sealed(self.scratch)
        (self.scratch / JOURNAL).unlink()
        super().seal()

    @property
    def is_kept(self) -> bool:
        """Whether the scratch folder was left for the same conversion to go on."""
        return not self._published and (self.scratch / JOURNAL).exists()

    def write(
        self, unit: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any], read: Mapping[str, str]
    ) -> dict[str, str]:
        """Write the tensors of a unit, from any thread; returns the hash of each.

        Args:
            unit: its name.
            tensors: by name, as laid out.
            note: what to remember of it, values of JSON.
            read: hashes of tensors of the source that have been read, by name, which is remembered too.

        Raises:
            OSError: the disk is full, say.
        """
        digests = self._files.write(tensors)
        entry = Entry(digests, dict(note), dict(read))
        with self._lock:
            assert self._journal is not None, "only inside the context is there something to write to"
            self._written[unit] = entry
            self._journal.add(unit, entry)
        return digests

    def read(self, name: str) -> Tensor:
        """A tensor that was written."""
        return self._files.read(name)

    def headers(self) -> dict[str, str]:
        """The hash of what each shard has in front of its tensors, by its name."""
        return {name: digest_of(header) for name, header in self._layout.headers.items()}

    def digests(self) -> dict[str, str]:
        """The hash of every tensor written, in the order of the layout.

        Raises:
            AssertionError: one is missing.
        """
        found = {name: digest for entry in self._written.values() for name, digest in entry.digests.items()}
        missing = self._layout.places.keys() - found
        assert not missing, f"{len(missing)} tensors were laid out and not written, {min(missing)} for one"
        return {name: found[name] for name in self._layout.places}

    def notes(self) -> dict[str, dict[str, Any]]:
        """What is remembered of every unit."""
        return {unit: entry.note for unit, entry in self._written.items()}

    def commit(self, config: dict[str, Any]) -> int:
        """Write the index and `config.json`, publish the folder, and return the bytes of its tensors."""
        total = self._layout.tensor_bytes
        if len(self._layout.sizes) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": self._layout.weight_map}
            write_json(self.scratch / INDEX, index)
        write_json(self.scratch / "config.json", config)
        self._close()
        self.publish()
        return total

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.keeps(kind) and self.scratch.exists() and not (self.scratch / JOURNAL).exists():
            Journal(self.scratch, self._begun_with, self._written).close()  # it could not be published
        super().__exit__(kind, error, trace)

    def _release(self) -> None:
        self._close()
        super()._release()

    def _close(self) -> None:
        self._files.close()
        if self._journal is not None:
            self._journal.close()
