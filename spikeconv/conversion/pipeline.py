"""The way a weight travels: source ─▶ plan ─▶ rotate ─▶ quantize ─▶ pack ─▶ its place in a shard."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spikeconv.checkpoint.balance import write_balance
from spikeconv.checkpoint.card import model_card
from spikeconv.checkpoint.folder import remember_own
from spikeconv.checkpoint.format import RECORD, quantization_config
from spikeconv.checkpoint.layout import Layout, TensorSpec
from spikeconv.checkpoint.writer import Sink
from spikeconv.conversion.demand import check_memory
from spikeconv.conversion.fingerprint import fingerprint
from spikeconv.conversion.layers import LayerResult, Layers
from spikeconv.conversion.log import ConversionLog
from spikeconv.conversion.outputs import output_specs
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.produce import produce
from spikeconv.conversion.record import make_record
from spikeconv.conversion.release import Releases
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

__all__ = ["ConvertSummary", "LayerResult", "checkpoint_config", "convert"]


@dataclass
class ConvertSummary:
    """What came out of a conversion.

    Of sizes: `source_types` are those that weights have in the source's files, the most frequent first; `float_bytes`
    is what stays float, by dtype.
    """

    output: str
    bits: str
    virtual_steps: int
    sending: str
    converted: int
    skipped: int
    bits_per_weight: float
    source_types: list[str]
    bytes_before: int
    bytes_after: int
    float_bytes: dict[str, int]
    mean_relative_error: float
    seconds: float = 0.0
    layers: list[LayerResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def convert(
    source: Source,
    plan: Plan,
    output: Path,
    *,
    command: str = "",
    dtype: torch.dtype | None = None,
    writing: Writing | None = None,
    track: Track = silent,
    log: ConversionLog | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> ConvertSummary:
    """Convert a source by a plan into the directory `output`.

    A conversion that was stopped goes on: what it wrote is found in the scratch folder and not made again.

    Args:
        source: where weights come from.
        plan: what to convert and how (see `make_plan`); its settings go into `config.json`.
        output: the checkpoint to create.
        command: the command line, for the record.
        dtype: dtype of the tensors that stay float; None keeps each as it is.
        writing: how it is written.
        track: progress display.
        log: told of every tensor.
        note: told, in a sentence, that an earlier conversion goes on.

    Raises:
        SpikeconvError: the output is in the way or cannot be written, another conversion to it was begun, or a weight
            is not finite.
    """
    start, writing, log = time.perf_counter(), writing or Writing(), log or ConversionLog(None, output)
    layers = Layers(plan)
    digested = DigestedSource(source)
    balanced = plan.balanced(digested, dtype)
    room = None if writing.max_memory is None else check_memory(balanced, plan, dtype, writing.max_memory)
    specs = output_specs(balanced, plan, dtype)
    layout = Layout.of((spec for unit in specs.values() for spec in unit), writing.shard_bytes)
    begun_with = fingerprint(source, plan, dtype, writing)
    restart = writing.restart or source.origin() is None  # nothing tells whether a model in memory is the same
    sink = Sink(output, layout, begun_with, force=writing.force, restart=restart)
    try:
        with sink:
            log.add("begin", command=command, source=source.origin(), output=str(output), tensors=len(specs))
            with plain_errors(sink.scratch):
                source.copy_companions(sink.scratch)  # first: what cannot be read costs no work
            if sink.done:
                note(f"Going on with {len(sink.done)} of {len(specs)} tensors that are in {sink.scratch}.")
            for entry in sink.done.values():
                digested.expect(entry.read)
                if entry.note:
                    layers.add(LinearResult(**entry.note))

            releases = Releases(source, specs.keys() - sink.done.keys())

            def take(unit: str, made: Unit) -> None:
                result = {} if made.result is None else asdict(made.result)
                digests = sink.write(unit, made.tensors, result, digested.just_read())
                releases.finished(unit)
                log.add("tensor", name=unit, seconds=made.seconds, written=digests, **result)
                if made.result is not None:
                    layers.add(made.result)

            def recall(unit: str) -> dict[str, Tensor]:
                return {spec.name: sink.read(spec.name) for spec in specs[unit]}

            produce(
                *(balanced, plan, dtype, take),
                recall=recall,
                done=frozenset(sink.done),
                jobs=writing.jobs,
                device=writing.device,
                room=room,
                track=track,
            )
            files = [] if plan.diagonals is None else [write_balance(sink.scratch, plan.diagonals, dtype)]
            others = {file.name: sha256_of(file) for file in files}
            hashes = digested.digests(), sink.headers(), sink.digests(), others
            record = make_record(source, plan, *hashes, command, layers.results())
            write_json(sink.scratch / RECORD, record)
            card = model_card(sink.target.name, record, plan.family.auto_name(source.config.get("architectures")))
            (sink.scratch / "README.md").write_text(card, encoding="utf-8", errors="replace")
            size = sink.commit(checkpoint_config(source, plan, dtype))
        with suppress(OSError):  # then commands ask where its source is
            remember_own(sink.target)
    except SpikeconvError as error:
        if sink.is_kept:
            raise SpikeconvError(
                f"{error} What was converted is in {sink.scratch}: the same command goes on."
            ) from None
        raise
    except (OSError, SafetensorError) as error:
        kept = f" What was converted is in {sink.scratch}: the same command goes on with it." if sink.is_kept else ""
        raise SpikeconvError(f"Writing {output} failed: {error}.{kept}") from None
    seconds = time.perf_counter() - start
    log.add("end", seconds=seconds, bytes=size)
    results = layers.results()
    errors = [value for layer in results for value in layer.relative_error.values()]
    return ConvertSummary(
        output=str(output),
        bits=plan.config.bits,
        virtual_steps=plan.config.inputs.virtual_steps,
        sending=plan.config.sending,
        converted=len(plan.jobs),
        skipped=len(plan.skipped),
        bits_per_weight=plan.bits_per_weight,
        source_types=source.types(),
        bytes_before=source.size(),
        bytes_after=size,
        float_bytes=_float_bytes(specs, plan),
        mean_relative_error=sum(errors) / len(errors),
        seconds=seconds,
        layers=results,
    )


def _float_bytes(specs: Mapping[str, list[TensorSpec]], plan: Plan) -> dict[str, int]:
    """Bytes of the tensors of linears that are not converted and of all else, by dtype, the most first."""
    converted = {f"{job.linear.name}.weight" for job in plan.jobs}
    found: Counter[str] = Counter()
    for unit, made in specs.items():
        for spec in made if unit not in converted else ():
            found[str(spec.dtype).removeprefix("torch.")] += math.prod(spec.shape) * spec.dtype.itemsize
    return dict(found.most_common())


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
