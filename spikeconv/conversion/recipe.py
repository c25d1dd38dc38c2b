"""The recipe of a conversion: find the source, open it, clip, plan, calibrate. What is left is the pipeline's."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spikeconv.calibrate.balance import diagonals
from spikeconv.calibrate.clipping import Clipping
from spikeconv.calibrate.record import ClipRecord
from spikeconv.calibrate.saliency import salient_channels
from spikeconv.calibrate.statistics import input_statistics
from spikeconv.calibrate.thresholds import calibrate_source
from spikeconv.calibrate.through_spikes import find_alphas
from spikeconv.calibrate.training_record import TRAINING_RECORD, TrainingRecord
from spikeconv.calibrate.windows import STATISTICS_TOKENS, Calibration
from spikeconv.config import SpikeConfig
from spikeconv.config.paths import SHORT_NAMES
from spikeconv.conversion.demand import check_memory
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.conversion.search import choose_encoders
from spikeconv.conversion.wanted import Search
from spikeconv.data.texts import read_text
from spikeconv.errors import SpikeconvError
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float
from spikeconv.sources.model import ModelSource
from spikeconv.sources.presets import load_scheme
from spikeconv.sources.resolve import open_named

__all__ = ["open_model", "plan_conversion", "read_settings"]

WEIGHT_TOKENS = 65536
"""Tokens that calibrated weights are rounded for, unless it is said how many."""


def read_settings(scheme: str | None, settings: Mapping[str, Any]) -> tuple[SpikeConfig, Clipping, Calibration, Search]:
    """The settings of a conversion as a Python user writes them.

    Args:
        scheme: a YAML file or a scheme's name; lowest priority.
        settings: by path, short name or nested; `overrides` may map patterns to settings. What is called as an option
            of the command line about clipping (`clip_quantile`, `clip_from`, …) says what is clipped, and
            `calibration`, `calibration_tokens` and `calibration_seed` on which text something is calibrated; `budget`,
            `auto` and `spike_price` what is found on it.

    Raises:
        SpikeconvError: a setting is unknown or impossible.
    """
    rest = dict(settings)
    clip = {name: rest.pop(name) for name in settings if name.startswith("clip_") and name not in SHORT_NAMES}
    text = {name: rest.pop(name) for name in settings if name in Calibration.model_fields}
    found = {name: rest.pop(name) for name in settings if name in Search.model_fields}
    if isinstance(overrides := rest.get("overrides"), Mapping):
        rest["overrides"] = [{"pattern": pattern, "settings": each} for pattern, each in overrides.items()]
    config = SpikeConfig.parse({} if scheme is None else load_scheme(scheme), rest)
    return config, Clipping.parse(clip), Calibration.parse(text), Search.parse(found)


def open_model(
    model: str | PreTrainedModel, tokenizer: Any = None, *, trust_remote_code: bool = False, arch: str | None = None
) -> Source:
    """A source from what a user calls a model: a preset, hub id, path, or a model in memory.

    Raises:
        SpikeconvError: there is no such model, or it cannot be read.
    """
    if isinstance(model, str):
        return open_named(model, trust_remote_code=trust_remote_code, arch=arch)
    if not isinstance(model, PreTrainedModel):
        raise SpikeconvError(
            f"A {type(model).__name__} cannot be converted; give a preset, path, hub id or a PreTrainedModel (of an "
            "adapter's, the model that its weights were merged into)."
        )
    return ModelSource(model, tokenizer)


def plan_conversion(
    source: Source,
    config: SpikeConfig,
    clipping: Clipping | None = None,
    calibration: Calibration | None = None,
    wanted: Search | None = None,
    *,
    dtype: torch.dtype | None = None,
    calibrate: bool = True,
    max_memory: int | None = None,
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
    trained: TrainingRecord | None = None,
) -> Plan:
    """Plan a conversion, with everything found on a text that the plan wants to know of one.

    Args:
        source: what will be converted.
        config: the settings.
        clipping: what to clip beside them, and on which text τ is found.
        calibration: the text that everything else is found on.
        wanted: encoders to choose on it.
        dtype: dtype of what stays float; None: as in the source.
        calibrate: read texts; without it the plan is only for looking at.
        max_memory: bytes that the process may have; None: no limit.
        track: progress display.
        note: told, in a sentence, of work that takes long.
        trained: what the source was trained for, whose settings `config` has: nothing is found on a text.

    Raises:
        SpikeconvError: the source cannot be converted like that.
    """
    clipping, calibration, wanted = clipping or Clipping(), calibration or Calibration(), wanted or Search()
    if clipping.clip_from is not None:
        record = ClipRecord.read(clipping.clip_from)
        plan = make_plan(source, record.apply(config, source)).with_thresholds(record.thresholds)
        if plan.balanced_groups:
            raise SpikeconvError("The thresholds of --clip-from were found without balance; leave --balance out.")
        if wanted.asked:
            raise SpikeconvError(
                "The thresholds of --clip-from belong to its own settings; leave --budget and auto out."
            )
        return plan
    if trained is not None:
        if clipping.asked or wanted.asked:
            raise SpikeconvError("What a model was trained for is neither clipped nor searched; leave that out.")
        return _as_trained(make_plan(source, config), trained)
    config = clipping.apply(config, source)
    plan = make_plan(source, config)
    groups = plan.balanced_groups
    if source.deletes and (groups or plan.calibrates or plan.clips or plan.selects or plan.fires or wanted.asked):
        raise SpikeconvError(
            "What is found on a text reads the source more than once; leave --delete-source-shards out."
        )
    if calibrate and max_memory is not None:
        if wanted.asked:
            raise SpikeconvError("--max-memory cannot be kept while encoders are chosen; leave one of the two out.")
        check_memory(source, plan, dtype, max_memory)
    if calibrate and (groups or plan.calibrates or plan.selects or plan.fires or wanted.asked):
        text = calibration.read(source, WEIGHT_TOKENS if plan.calibrates else STATISTICS_TOKENS)
        plan = replace(plan, calibration=text)
        if plan.calibrates:
            note(f"The weights are calibrated on {text.record['tokens']:,} tokens of {text.record['text']}.")
    if groups and plan.calibration is not None:
        text = plan.calibration
        windows = text.windows[: max(1, STATISTICS_TOKENS // text.windows.shape[1])]
        note(f"Calibrating the balance on {windows.numel():,} tokens of {text.record['text']}.")
        statistics = input_statistics(source, windows, groups, track=track)
        rows = {linear.name: source.shape(f"{linear.name}.weight")[0] for linear in plan.layout}
        kinds = {job.linear.group: job.scheme.balance for job in plan.jobs}
        plan = replace(plan, diagonals=diagonals(statistics, kinds, plan.layout, rows))
    if plan.selects and plan.calibration is not None:
        text = plan.calibration
        windows = text.windows[: max(1, STATISTICS_TOKENS // text.windows.shape[1])]
        note(f"Looking for salient channels on {windows.numel():,} tokens of {text.record['text']}.")
        plan = _select(source, plan, windows, dtype, track)
    if plan.fires and plan.calibration is not None:
        text = plan.calibration
        note(f"Calibrating neurons on the first batch of {text.record['text']}.")
        model = load_float(source, device="cpu", dtype="float32").model
        inputs, outputs = find_alphas(model, plan.config, text.windows, track)
        plan = replace(plan, alphas=inputs, output_alphas=outputs)
    if wanted.asked and plan.calibration is not None:
        text = plan.calibration
        note(f"Choosing encoders on {text.record['text']}.")
        choice = choose_encoders(source, config, plan, wanted, text.windows, dtype=dtype, track=track)
        note(f"{choice.sentence}.")
        chosen = make_plan(source, choice.config)
        plan = replace(chosen, calibration=text, diagonals=plan.diagonals, found=choice.record)
    if calibrate and plan.clips:
        content, label = read_text(clipping.clip_text)
        note(f"Calibrating the clipping on {clipping.clip_tokens:,} tokens of {label}.")
        balanced = plan.balanced(source, dtype)
        plan = plan.with_thresholds(calibrate_source(balanced, plan.config, content, clipping.clip_tokens, track))
    return plan


def _as_trained(plan: Plan, trained: TrainingRecord) -> Plan:
    """The plan with everything that training found."""
    kinds = ("input_salient", "input_alpha", "output_alpha")
    salient, alphas, outputs = (trained.tensors(kind) for kind in kinds)
    for job in plan.jobs:
        wanted = job.shapes
        for kind, found in zip(kinds, (salient, alphas, outputs), strict=True):
            tensor = found.get(job.linear.name)
            if kind in wanted and (tensor is None or tuple(tensor.shape) != wanted[kind][0]):
                raise SpikeconvError(f"{TRAINING_RECORD} has no {kind} for {job.linear.name}; it is of another model.")
    return replace(plan, salient=salient, alphas=alphas, output_alphas=outputs)


def _select(source: Source, plan: Plan, windows: Tensor, dtype: torch.dtype | None, track: Track) -> Plan:
    """The plan with the channels that get more bits."""
    balanced, kv = plan.balanced(source, dtype), plan.config.kv
    schemes = {job.linear.name: job.scheme for job in plan.jobs}
    told = {job.linear.group: d for job in plan.jobs if (d := plan.balance_told(job)) is not None}
    share, seed = None if kv is None else kv.low_share, plan.config.rotation.seed
    found = salient_channels(balanced, schemes, windows, told, share, seed, track=track)
    return replace(plan, salient=found.inputs, salient_outputs=found.outputs)
