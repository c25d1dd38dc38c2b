"""The way a weight travels: source ─▶ plan ─▶ rotate ─▶ quantize ─▶ pack ─▶ its place in a shard."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from spikeconv.checkpoint.layout import TensorSpec
from spikeconv.conversion.conversion import Conversion
from spikeconv.conversion.layers import LayerResult
from spikeconv.conversion.log import ConversionLog
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["ConvertSummary", "LayerResult", "convert"]


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

    A conversion that was stopped goes on: what it wrote is found in the scratch folder and not made again. Several
    processes, perhaps on several hosts, can write one checkpoint (`Writing.shard`).

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
    start, log = time.perf_counter(), log or ConversionLog(None, output)
    conversion = Conversion(
        source,
        plan,
        output,
        command=command,
        dtype=dtype,
        writing=writing or Writing(),
        track=track,
        log=log,
        note=note,
    )
    try:
        size = conversion.run()
    except SpikeconvError as error:
        if conversion.kept:
            raise SpikeconvError(f"{error}{conversion.kept}") from None
        raise
    except (OSError, SafetensorError) as error:
        raise SpikeconvError(f"Writing {output} failed: {error}.{conversion.kept}") from None
    seconds = time.perf_counter() - start
    log.add("end", seconds=seconds, bytes=size)
    results = conversion.layers.results()
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
        float_bytes=_float_bytes(conversion.specs, plan),
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
