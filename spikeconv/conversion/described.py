"""A plan in words: every setting that is not the default, by its path, and what is found on which text."""

from collections.abc import Iterator, Mapping
from typing import Any

from spikeconv.calibrate.clipping import Clipping
from spikeconv.calibrate.windows import STATISTICS_TOKENS, Calibration
from spikeconv.config import LinearScheme
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.recipe import WEIGHT_TOKENS
from spikeconv.conversion.wanted import Search

__all__ = ["described"]

DERIVED = ("inputs.reach", "inputs.one_spike")
"""What follows from other settings."""


def described(
    plan: Plan, clipping: Clipping, texts: Calibration, wanted: Search, trained: bool
) -> list[tuple[str, str]]:
    """Pairs of what is meant and what is said of it.

    Args:
        plan: of the conversion.
        clipping: as asked for.
        texts: what is read, where something needs a text.
        wanted: what is chosen on it.
        trained: whether all that is calibrated comes from the source.
    """
    groups: dict[tuple[str, ...], dict[str, None]] = {}
    for job in plan.jobs:
        if said := tuple(_differences(job.scheme)):
            groups.setdefault(said, {})[job.linear.role] = None
    everywhere = {job.linear.role for job in plan.jobs}
    lines = [
        ("all" if roles.keys() == everywhere else ", ".join(roles), ", ".join(said)) for said, roles in groups.items()
    ]
    if (kv := plan.config.kv) is not None:
        lines.append(("keys and values", ", ".join(f"kv.{name}" for name in _flat(kv.model_dump(mode="json")))))
    if trained:
        return [*lines, ("calibration", "all of it comes from the source, which was trained with it")]
    if clipping.clip_from is not None:
        lines.append(("thresholds τ", f"from {clipping.clip_from}"))
    elif plan.clips:
        text = clipping.clip_text or "BoolQ's passages"
        lines.append(("thresholds τ", f"found on {clipping.clip_tokens:,} tokens of {text}"))
    needs = {
        "the encoders that cost least": wanted.asked,
        "weights": plan.calibrates,
        "balance": bool(plan.balanced_groups),
        "salient channels": plan.selects,
        "α of neurons": plan.fires,
    }
    if found := [name for name, is_needed in needs.items() if is_needed]:
        tokens = texts.calibration_tokens or (WEIGHT_TOKENS if plan.calibrates else STATISTICS_TOKENS)
        read = f"{tokens:,} tokens of {texts.calibration}, seed {texts.calibration_seed}"
        lines.append(("calibration", f"{', '.join(found)}, on {read}"))
    return lines


def _differences(scheme: LinearScheme) -> Iterator[str]:
    """Settings by path where a scheme is not the default with its codec."""
    plain = {*_flat(LinearScheme.model_validate({"inputs": {"codec": scheme.inputs.codec}}).model_dump(mode="json"))}
    for setting in _flat(scheme.model_dump(mode="json", include={*LinearScheme.model_fields})):
        if setting not in plain and not setting.startswith(DERIVED):
            yield setting


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`path=value` of every setting."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}={'none' if value is None else value}"
