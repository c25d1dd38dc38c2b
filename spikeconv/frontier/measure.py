"""What is measured of one model of a frontier: the float one, or a conversion of it that lives in memory only."""

import gc
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field

from spikeconv.calibrate.clipping import Clipping
from spikeconv.calibrate.windows import Calibration
from spikeconv.config import SpikeConfig
from spikeconv.config.base import Settings
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.recipe import plan_conversion
from spikeconv.conversion.wanted import Search
from spikeconv.data.offline import boolq_passages
from spikeconv.data.texts import longest_window, python_docs
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.perplexity import perplexity
from spikeconv.evaluate.tasks import evaluate_tasks
from spikeconv.hashing import text_digest
from spikeconv.loading import LoadedModel, find_device, parse_dtype
from spikeconv.progress import Track, silent
from spikeconv.record.layers import layer_records
from spikeconv.record.record import SpikeRecord
from spikeconv.record.recorder import Recorder
from spikeconv.report.firing_rate import TotalFiring, firing_report
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float

__all__ = ["TASKS", "WINDOW", "Measurement", "Protocol", "measure_conversion", "measure_float", "measured_texts"]

WINDOW = 1024
"""Tokens of a window, where the model can hold so many."""

TASKS = ("piqa", "arc_easy")


@dataclass(frozen=True)
class Protocol:
    """How every point is measured.

    Attributes:
        texts: by name; a model's quality is that on the worst of them.
        windows: windows of `WINDOW` tokens that are read of each text.
        limit: documents of each of `TASKS`; 0 leaves them out.
        device: as torch names it, or auto.
        dtype: of what stays float, by name; auto: as in the source.
    """

    texts: Mapping[str, str]
    windows: int = 2
    limit: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def identity(self) -> dict[str, Any]:
        """All that a measurement depends on, texts by their digests."""
        return {
            "texts": {name: text_digest(text) for name, text in self.texts.items()},
            "windows": self.windows,
            "window": WINDOW,
            "tasks": list(TASKS) if self.limit else [],
            "limit": self.limit,
            "device": find_device(self.device).type,
            "dtype": self.dtype,
        }


class Measurement(Settings):
    """What was found. Of the float model, and where no input is a count, there is nothing to say of spikes."""

    perplexity: dict[str, float] = Field(description="by text")
    tasks: dict[str, float] = Field(description="accuracy by task, acc_norm where the task has it")
    spikes_per_input: float | None = Field(description="weighted by multiply-accumulates, on the texts' windows")
    slots: int | None = Field(description="time steps of the slowest linear")
    zero_share: float | None = Field(description="share of counts that are zero")
    additions_per_token: float | None = Field(description="of columns, of the Hadamard transforms and of membranes")
    bytes: int = Field(description="of all weights as they would be stored")
    seconds: float = Field(description="to convert (calibration included) and to measure")


def measured_texts() -> dict[str, str]:
    """Python's documentation and BoolQ's passages: technical prose and an encyclopedia's.

    Raises:
        SpikeconvError: BoolQ is neither in the cache nor to be had.
    """
    return {"docs": python_docs(), "boolq": boolq_passages()}


def measure_float(source: Source, protocol: Protocol, *, track: Track = silent) -> Measurement:
    """Measure the float model of a source.

    Raises:
        SpikeconvError: it cannot be loaded, or a text is too short.
    """
    start = time.perf_counter()
    loaded = load_float(source, device=protocol.device, dtype=protocol.dtype)
    size = sum(parameter.nbytes for parameter in loaded.model.parameters())
    return _measure(loaded, protocol, size, start, track)


def measure_conversion(
    source: Source,
    config: SpikeConfig,
    clipping: Clipping,
    calibration: Calibration,
    wanted: Search,
    protocol: Protocol,
    *,
    track: Track = silent,
    note: Any = lambda text: None,
) -> Measurement:
    """Convert a source in memory, calibrated as `spikeconv convert` does it, and measure what comes out.

    Args:
        source: what is converted.
        config, clipping, calibration, wanted: the settings, as `read_settings` gives them.
        protocol: how to measure.
        track: progress display.
        note: told, in a sentence, of work that takes long and of texts that were seen before.

    Raises:
        SpikeconvError: the source cannot be converted like that, or what comes out gives no probabilities.
    """
    start, dtype = time.perf_counter(), parse_dtype(protocol.dtype)
    plan = plan_conversion(source, config, clipping, calibration, wanted, dtype=dtype, track=track, note=note)
    if plan.calibration is not None:
        for name, text in protocol.texts.items():
            if plan.calibration.record["text_sha256"] == text_digest(text):
                note(f"It was calibrated on the text {name}, on which it is measured too.")
    model: Any = convert_in_memory(source, plan, dtype=dtype, track=track)
    name = f"{source.path.name} converted"
    loaded = LoadedModel(model.to(find_device(protocol.device)), source.tokenizer(), source.path, name)
    return _measure(loaded, protocol, _stored_bytes(source, plan, dtype), start, track)


def _measure(loaded: LoadedModel, protocol: Protocol, size: int, start: float, track: Track) -> Measurement:
    window = min(WINDOW, longest_window(loaded.model) or WINDOW)
    recorder, tokens = Recorder(loaded.model), protocol.windows * window
    found = {}
    for name, text in protocol.texts.items():
        result = perplexity(loaded, text, window=window, max_tokens=tokens, track=track, watch=recorder)
        if (windows := result.tokens // (window - 1)) < protocol.windows:
            raise SpikeconvError(
                f"The text {name} has {windows} windows of {window:,} tokens, not {protocol.windows}; lower --windows."
            )
        found[name] = result.perplexity
    total = _firing(loaded.model, recorder)
    tasks = {}
    if protocol.limit:
        scores = evaluate_tasks(loaded, TASKS, data="offline", limit=protocol.limit, track=track).tasks
        tasks = {score.name: score.value for score in scores}
    additions = None if total is None else total.accumulations + total.rotation_additions + total.membrane_additions
    del loaded
    gc.collect()  # modules and their hooks refer to each other, so the weights would linger beside the next model's
    return Measurement(
        perplexity=found,
        tasks=tasks,
        spikes_per_input=None if total is None else total.spikes_per_input,
        slots=None if total is None else total.slots,
        zero_share=None if total is None else total.zero_share,
        additions_per_token=None if total is None or additions is None else additions / total.tokens,
        bytes=size,
        seconds=time.perf_counter() - start,
    )


def _firing(model: Any, recorder: Recorder) -> TotalFiring | None:
    """The spikes of all linears together; None where no input was a count."""
    layers = tuple(layer_records(model, recorder)) if recorder.statistics else ()
    if not layers:
        return None
    record = SpikeRecord("", (layers[0].tokens,), layers, {}, (), {})
    return firing_report(record).total


def _stored_bytes(source: Source, plan: Plan, dtype: torch.dtype | None) -> int:
    """Bytes of the checkpoint's tensors: those of the plan, and what stays float as it is."""

    def size(name: str) -> int:
        kept = dtype or source.dtype(name)
        assert isinstance(kept, torch.dtype), f"{name} is read, so its dtype is a float one"
        return math.prod(source.shape(name)) * kept.itemsize

    packed = {f"{job.linear.name}.weight": job.packed_bytes for job in plan.jobs if not job.scheme.weights.is_float}
    return sum(packed[name] if name in packed else size(name) for name in plan.tensors)
