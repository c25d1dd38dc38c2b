"""Settings of encoders that are found on a text: for a budget, or by their error alone.

What is found becomes overrides by name, in front of the user's, so that the checkpoint says everything and the user
has the last word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from spikeconv.calibrate.budget import at_price, mean_spikes, total_error, within_spikes
from spikeconv.calibrate.offers import Candidate, Menu, Offer, offers_of
from spikeconv.config import CountInputs, LinearScheme, Override, SpikeConfig
from spikeconv.config.paths import Tree
from spikeconv.conversion.memory import convert_in_memory
from spikeconv.conversion.plan import Job, Plan, make_plan
from spikeconv.conversion.wanted import Search
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float

__all__ = ["Found", "choose_encoders"]

STEPS = (0.06, 0.075, 0.09, 0.11, 0.14, 0.18)
DEAD_ZONES = (0.0, 0.12, 0.2, 0.28, 0.36, 0.45, 0.55)
WIDTHS = (3, 4, 5, 6)
RATIOS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
FEW_RATIOS = (0.8, 0.9, 1.0)

TRIED_TOKENS = 4096
"""Of the calibration text, for the offers."""
HELD_OUT = 2
"""Windows of the calibration text that a perplexity is measured on."""
ROUNDS = 5
"""Conversions that are measured for a perplexity."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        config: the settings with it.
        record: what the checkpoint's record says of it.
        sentence: the same for the user.
    """

    config: SpikeConfig
    record: dict[str, Any]
    sentence: str


def choose_encoders(
    source: Source,
    config: SpikeConfig,
    plan: Plan,
    wanted: Search,
    windows: Tensor,
    *,
    dtype: torch.dtype | None = None,
    track: Track = silent,
) -> Found:
    """Choose the settings of every encoder of a plan.

    Args:
        source: what was planned.
        config: the settings that it was planned with.
        plan: with its balance calibrated.
        wanted: what to find.
        windows: token ids [windows, tokens] of the calibration text.
        dtype: dtype of what stays float.
        track: progress display.

    Raises:
        SpikeconvError: no linear has counts to choose, or the budget is out of reach.
    """
    groups = _groups(plan)
    schemes = {job.linear.name: job.scheme for job in plan.jobs}
    menus = offers_of(
        plan.balanced(source, dtype),
        groups,
        lambda linear: _candidates(schemes[linear.name], wanted),
        windows[: max(1, TRIED_TOKENS // windows.shape[1])],
        track=track,
    )
    target = wanted.target
    if target is None:
        chosen = at_price(menus, wanted.spike_price)
        return _found(config, menus, chosen, {"auto": list(wanted.auto), "spike_price": wanted.spike_price})
    name, number = target
    if name == "spikes":
        return _found(config, menus, within_spikes(menus, number), {"budget": wanted.budget})
    return _within_perplexity(source, config, plan, menus, number, windows[-HELD_OUT:], track)


def _groups(plan: Plan) -> list[list[ModuleLinear]]:
    """The converted linears that share an encoder."""
    groups: dict[tuple[Any, ...], list[ModuleLinear]] = {}
    for job in plan.jobs:
        if _can_choose(job):
            groups.setdefault((job.linear.group, *job.scheme.encoding), []).append(job.linear)
    if not groups:
        raise SpikeconvError("No linear sends counts whose settings could be chosen: codec=count, without clipping.")
    return list(groups.values())


def _can_choose(job: Job) -> bool:
    """Whether the offers know what the encoder does: counts, nothing clipped, no factor of its own."""
    inputs = job.scheme.inputs
    explicit = job.scheme.balance != "none" and not job.linear.folds
    return isinstance(inputs, CountInputs) and inputs.symmetric and inputs.clip is None and not explicit


def _candidates(scheme: LinearScheme, wanted: Search) -> list[Candidate]:
    trees = _for_budget(scheme) if wanted.budget is not None else _for_error(scheme, wanted.auto)
    return [Candidate(tree, scheme.overlaid(tree)) for tree in trees]


def _for_budget(scheme: LinearScheme) -> list[Tree]:
    inputs = scheme.inputs
    assert isinstance(inputs, CountInputs)
    if inputs.scale != "max":
        trees: list[Tree] = [
            {"inputs": {"scale": "rms", "step": s, "dead_zone": d}} for s, d in product(STEPS, DEAD_ZONES)
        ]
        if scheme.rotation.kind == "gamma-sqp":
            raw = (
                {"inputs": {"scale": "rms", "step": 0.09, "dead_zone": d}, "rotation": {"kind": "none"}}
                for d in DEAD_ZONES[1:]
            )
            trees.extend(raw)
        return trees
    widths = [bits for bits in WIDTHS if scheme.code.overflow == "clip" or _reaches(scheme, bits)]
    return [{"inputs": {"bits": bits, "clip_ratio": ratio}} for bits, ratio in product(widths, FEW_RATIOS)]


def _reaches(scheme: LinearScheme, bits: int) -> bool:
    return scheme.code.reach is None or scheme.code.reach >= 1 << bits - 1


def _for_error(scheme: LinearScheme, auto: Sequence[str]) -> list[Tree]:
    inputs = scheme.inputs
    assert isinstance(inputs, CountInputs)
    ratios = RATIOS if "clip_ratio" in auto else (inputs.clip_ratio,)
    if "count_scale" not in auto:
        return [{"inputs": {"clip_ratio": ratio}} for ratio in ratios]
    of_max = [{"inputs": {"scale": "max", "clip_ratio": ratio}} for ratio in ratios]
    of_rms = [{"inputs": {"scale": "rms", "step": step}} for step in STEPS]
    possible = inputs.scale == "max" or scheme.code.overflow == "clip" or _reaches(scheme, inputs.bits)
    return [*(of_max if possible else ()), *of_rms]


def _found(config: SpikeConfig, menus: Sequence[Menu], chosen: Sequence[Offer], record: dict[str, Any]) -> Found:
    ours = [
        Override(pattern=name, settings=offer.settings)
        for menu, offer in zip(menus, chosen, strict=True)
        for name in menu.names
    ]
    found = SpikeConfig.parse({**config.model_dump(), "overrides": [*ours, *config.overrides]})
    spikes, error = mean_spikes(menus, chosen), total_error(chosen)
    text = f"{len(menus)} encoders chosen: {spikes:.3f} spikes per input and {error:.4f} nats per token lost expected"
    return Found(found, {**record, "expected_spikes": spikes, "expected_error": error}, text)


def _within_perplexity(
    source: Source,
    config: SpikeConfig,
    plan: Plan,
    menus: Sequence[Menu],
    ratio: float,
    windows: Tensor,
    track: Track,
) -> Found:
    """The fewest spikes whose perplexity, measured on the windows, is no more than `ratio` times the float model's."""
    finest = [min(menu.offers, key=lambda o: o.error) for menu in menus]
    fewest = [min(menu.offers, key=lambda o: o.spikes) for menu in menus]
    high, low = mean_spikes(menus, finest), mean_spikes(menus, fewest)
    base = _loss(load_float(source, dtype="float32").model, windows)

    def measured(found: Found) -> float:
        nearest = {**found.config.model_dump(), "weights.method": "rtn"}  # what takes minutes is not tried in rounds
        tried = replace(make_plan(source, SpikeConfig.parse(nearest)), diagonals=plan.diagonals)
        return math.exp(_loss(convert_in_memory(source, tried, dtype=torch.float32), windows) - base)

    best = _found(config, menus, finest, {})
    reached = measured(best)
    if reached > ratio:
        raise SpikeconvError(
            f"A perplexity of {ratio:g} times the float model's is out of reach on the calibration text: the finest "
            f"encoders that were tried give {reached:.4f} at {high:.3f} spikes per input. Take more bits or slots."
        )
    for _ in track(range(ROUNDS), "measuring budgets", ROUNDS):
        middle = (low + high) / 2
        found = _found(config, menus, within_spikes(menus, middle), {})
        if (value := measured(found)) <= ratio:
            best, reached, high = found, value, middle
        else:
            low = middle
    record = {**best.record, "budget": f"perplexity={ratio:g}", "measured_ratio": reached}
    return Found(
        best.config, record, f"{best.sentence}; {reached:.4f} times the float perplexity on the calibration text"
    )


def _loss(model: Any, windows: Tensor) -> float:
    """Mean negative log-likelihood of all tokens but the first of each window, in nats."""
    total = 0.0
    with torch.inference_mode():
        for ids in windows:
            logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:].to(logits.device)))
    return total / len(windows)
