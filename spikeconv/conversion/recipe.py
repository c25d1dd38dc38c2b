"""The recipe of a conversion: find the source, open it, clip, plan, calibrate. What is left is the pipeline's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spikeconv.calibrate.record import ClipRecord
from spikeconv.calibrate.thresholds import calibrate_source, clip_roles
from spikeconv.config import SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.data.texts import read_text
from spikeconv.errors import SpikeconvError
from spikeconv.families import find_family
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["Clipping", "plan_conversion"]

ClipMode = Literal["relu", "shifted", "two-sided"]


@dataclass(frozen=True)
class Clipping:
    """What is clipped in front of which linears, and what τ is calibrated on; by default nothing is.

    Attributes:
        quantile: share of the membrane potentials cut off.
        mode: what is left of the others.
        roles: roles or name patterns; none: the inputs of attention.
        text: a text file; None: BoolQ's passages.
        tokens: tokens of it to read.
        finetuned: a model that `finetune` made, whose τ, mode, quantile and roles are taken instead.

    Raises:
        SpikeconvError: both a fine-tuned model and settings of its own are given.
    """

    quantile: float | None = None
    mode: ClipMode | None = None
    roles: tuple[str, ...] = ()
    text: Path | None = None
    tokens: int = 8192
    finetuned: Path | None = None

    def __post_init__(self) -> None:
        if self.finetuned is not None and self.asked:
            raise SpikeconvError("--clip-from brings quantile, mode and roles; leave out their own options.")

    @property
    def asked(self) -> bool:
        """Whether something is to be clipped that `finetuned` does not say."""
        return self.quantile is not None or self.mode is not None or bool(self.roles)

    def apply(self, config: SpikeConfig, source: Source) -> SpikeConfig:
        """A conversion's settings with this clipping, unless it is a fine-tuned model's, in front of the overrides.

        Raises:
            SpikeconvError: it is impossible with the source or the settings.
        """
        if not self.asked:
            return config
        quantile = 0.5 if self.quantile is None else self.quantile
        return clip_roles(config, find_family(source.config), self.mode or "relu", quantile, self.roles)


def plan_conversion(
    source: Source,
    config: SpikeConfig,
    clipping: Clipping,
    *,
    calibrate: bool = True,
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Plan a conversion, with τ found on a text wherever the plan clips.

    Args:
        source: what will be converted.
        config: the settings.
        clipping: what to clip beside them.
        calibrate: find τ; without it the plan is only for looking at.
        track: progress display.
        note: told, in a sentence, of work that takes long.

    Raises:
        SpikeconvError: the source cannot be converted like that.
    """
    if clipping.finetuned is not None:
        record = ClipRecord.read(clipping.finetuned)
        return make_plan(source, record.apply(config, source)).with_thresholds(record.thresholds)
    plan = make_plan(source, clipping.apply(config, source))
    if calibrate and plan.clips:
        text, label = read_text(clipping.text)
        note(f"Calibrating the clipping on {clipping.tokens:,} tokens of {label}.")
        plan = plan.with_thresholds(calibrate_source(source, plan.config, text, clipping.tokens, track))
    return plan
