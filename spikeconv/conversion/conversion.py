"""A conversion under way: its tensors are made and written, then the checkpoint is put together and published."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeconv.checkpoint.balance import write_balance
from spikeconv.checkpoint.card import model_card
from spikeconv.checkpoint.folder import remember_own
from spikeconv.checkpoint.format import RECORD, quantization_config
from spikeconv.checkpoint.journal import Entry
from spikeconv.checkpoint.layout import Layout
from spikeconv.checkpoint.shared import SharedScratch, refuse_shared
from spikeconv.checkpoint.writer import Sink
from spikeconv.conversion.demand import check_memory
from spikeconv.conversion.fingerprint import fingerprint
from spikeconv.conversion.layers import Layers
from spikeconv.conversion.log import ConversionLog
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.produce import Take, produce
from spikeconv.conversion.record import make_record
from spikeconv.conversion.release import Releases
from spikeconv.conversion.shareable import refuse_calibrated
from spikeconv.conversion.work import LinearResult, Unit
from spikeconv.conversion.writing import Writing
from spikeconv.disk import plain_errors
from spikeconv.errors import SpikeconvError
from spikeconv.hashing import sha256_of
from spikeconv.plain import write_json
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.digested import DigestedSource
from spikeconv.sources.model_config import hf_config
from spikeconv.sources.weight_files import EXPLICIT_WEIGHTS

__all__ = ["Conversion", "checkpoint_config"]


class Conversion:
    """One conversion of a source by a plan; arguments as those of `pipeline.convert`.

    Attributes:
        specs: the tensors that take the place of each tensor of the source, which is a unit.
        layers: results of linears that were converted.

    Raises:
        SpikeconvError: there is less memory than a tensor needs.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        output: Path,
        *,
        command: str,
        dtype: torch.dtype | None,
        writing: Writing,
        track: Track,
        log: ConversionLog,
        note: Callable[[str], None],
    ) -> None:
        self._source, self._plan, self._output, self._dtype = source, plan, output, dtype
        self._command, self._writing, self._track, self._log, self._note = command, writing, track, log, note
        self.layers = Layers(plan)
        self._digested = DigestedSource(source)
        self._balanced = plan.balanced(self._digested, dtype)
        limit = writing.max_memory
        self._room = None if limit is None else check_memory(self._balanced, plan, dtype, limit)
        self.specs = output_specs(self._balanced, plan, dtype)
        self._layout = Layout.of((spec for unit in self.specs.values() for spec in unit), writing.shard_bytes)
        self._begun_with = fingerprint(source, plan, dtype, writing)
        self._written_to: Sink | SharedScratch | None = None

    @property
    def kept(self) -> str:
        """In a sentence, where a conversion that failed can go on; empty if it cannot."""
        place = self._written_to
        if place is None or not place.is_kept:
            return ""
        return f" What was converted is in {place.scratch}: the same command goes on with it."

    def run(self) -> int:
        """Convert, alone or with others; bytes of the checkpoint's tensors.

        Raises:
            SpikeconvError: the output is in the way or cannot be written, another conversion to it was begun, or a
                weight is not finite; what was written stays if the same conversion can go on with it.
            OSError: a file cannot be read or written; the same.
        """
        if self._writing.shard is None:
            refuse_shared(self._output, self._note)
            sink = self._written_to = self._sink()
            with sink:
                self._begin()
                self._publish(sink)
        else:
            self._share()
        with suppress(OSError):  # then commands ask where its source is
            remember_own(self._output)
        return self._layout.tensor_bytes

    def _begin(self) -> None:
        origin, output = self._source.origin(), str(self._output)
        self._log.add("begin", command=self._command, source=origin, output=output, tensors=len(self.specs))

    def _sink(self, **options: Any) -> Sink:
        writing = self._writing
        restart = (
            writing.restart or self._source.origin() is None
        )  # nothing tells whether a model in memory is the same
        return Sink(self._output, self._layout, self._begun_with, force=writing.force, restart=restart, **options)

    def _share(self) -> None:
        """Make what no other process makes, until all is written; one of them publishes it."""
        shard = self._writing.shard
        assert shard is not None
        refuse_calibrated(job.scheme.weights for job in self._plan.jobs)
        if self._source.origin() is None:
            raise SpikeconvError("A model in memory is one process's own; save it, and convert its folder.")
        shared = SharedScratch(self._output, self._layout, self._begun_with, shard, list(self.specs))
        with shared:
            self._written_to = shared
            self._begin()
            if shared.done:
                self._note(f"{len(shared.done)} of {len(self.specs)} tensors are in {shared.scratch}.")
            self._expect(shared.done.values())
            take = self._take(shared)
            self._produce(take, units=shard.order(shared.left), claim=shared.claim, track=self._track)
            shared.refresh()
            told = False
            while shared.left and not shared.is_over:
                of_the_dead = [unit for unit in shared.left if shared.claim(unit)]
                if of_the_dead:
                    self._note(f"Taking over {len(of_the_dead)} tensors of a shard that ended.")
                    self._produce(take, units=of_the_dead, track=self._track)
                elif not told:
                    self._note(f"Waiting for {len(shared.left)} tensors that other shards are at work on.")
                    told = True
                if shared.left:
                    shared.wait()
            if shared.is_ours_to_publish():
                with self._sink(sealed=shared.seal) as sink:
                    self._publish(sink)
            self._expect(shared.done.values())
            if shared.left:
                raise SpikeconvError(f"{self._output} was published by other shards, which took this one for dead.")
            if shared.alone and shard.count > 1:
                self._note(
                    f"No other shard was seen in {shared.scratch.parent}: this one did all the work. Is that the same "
                    "folder on every host?"
                )

    def _publish(self, sink: Sink) -> None:
        """Make what is missing in an open sink, and everything that is no tensor; then put the folder in its place."""
        source, plan = self._source, self._plan
        with plain_errors(sink.scratch):
            source.copy_companions(sink.scratch)  # first: what cannot be read costs no work
        if sink.done and self._writing.shard is None:
            self._note(f"Going on with {len(sink.done)} of {len(self.specs)} tensors that are in {sink.scratch}.")
        self._expect(sink.done.values())

        def recall(unit: str) -> dict[str, Tensor]:
            return {spec.name: sink.read(spec.name) for spec in self.specs[unit]}

        releases = Releases(source, self.specs.keys() - sink.done.keys())
        take = self._take(sink, releases.finished)
        shown = self._track if self._writing.shard is None else silent
        self._produce(take, recall=recall, done=frozenset(sink.done), track=shown)
        files = [] if plan.diagonals is None else [write_balance(sink.scratch, plan.diagonals, self._dtype)]
        others = {file.name: sha256_of(file) for file in files}
        hashes = self._digested.digests(), sink.headers(), sink.digests(), others
        record = make_record(source, plan, *hashes, self._command, self.layers.results())
        write_json(sink.scratch / RECORD, record)
        card = model_card(sink.target.name, record, plan.family.auto_name(source.config.get("architectures")))
        (sink.scratch / "README.md").write_text(card, encoding="utf-8", errors="replace")
        sink.commit(checkpoint_config(source, plan, self._dtype))

    def _take(self, sink: Sink | SharedScratch, finished: Callable[[str], None] = lambda unit: None) -> Take:
        """Writes a unit that was made."""

        def take(unit: str, made: Unit) -> None:
            result = {} if made.result is None else asdict(made.result)
            digests = sink.write(unit, made.tensors, result, self._digested.just_read())
            finished(unit)
            self._log.add("tensor", name=unit, seconds=made.seconds, written=digests, **result)
            if made.result is not None:
                self.layers.add(made.result)

        return take

    def _produce(self, take: Take, **which: Any) -> None:
        writing = self._writing
        how: dict[str, Any] = {"jobs": writing.jobs, "device": writing.device, "room": self._room}
        produce(self._balanced, self._plan, self._dtype, take, **how, **which)

    def _expect(self, entries: Iterable[Entry]) -> None:
        """What was written before, or by others, belongs to this conversion, and the source must still be the same."""
        for entry in entries:
            self._digested.expect(entry.read)
            if entry.note:
                self.layers.add(LinearResult(**entry.note))


def checkpoint_config(source: Source, plan: Plan, dtype: torch.dtype | None) -> dict[str, Any]:
    """The `config.json` of a converted checkpoint."""
    result = {**source.config, **plan.family.fixed}
    for moved in ("torch_dtype", EXPLICIT_WEIGHTS):  # an older name of dtype; a file that the result does not have
        result.pop(moved, None)
    result["dtype"] = str(dtype or _dtype(source)).removeprefix("torch.")
    result["quantization_config"] = quantization_config(plan.config)
    return result


def _dtype(source: Source) -> torch.dtype:
    """The dtype that transformers computes in: of the config, or else of the first tensor; never float64 here."""
    found = (source.dtype(name) for name in source.names())
    first = next((dtype for dtype in found if isinstance(dtype, torch.dtype)), torch.float32)
    dtype: Any = hf_config(source.config).dtype or first
    return torch.float32 if dtype == torch.float64 else dtype
