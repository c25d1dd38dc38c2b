"""Where a model is clipped and at which τ: found on a text, kept in a record, given to a conversion."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from spikeconv.config import Override, SpikeConfig
from spikeconv.conversion.plan import Plan, make_plan
from spikeconv.data.texts import longest_window, token_windows
from spikeconv.errors import SpikeconvError
from spikeconv.families import Family, family_of
from spikeconv.nn.clip import MembraneClip
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float

__all__ = [
    "RECORD",
    "ClipRecord",
    "calibrate",
    "calibrated",
    "clip_inputs",
    "clip_roles",
    "needs_thresholds",
    "thresholds_of",
    "with_thresholds",
]

RECORD = "spikeconv-clip.json"
"""In every fine-tuned model: which linears are clipped, how, and at which τ."""

ATTENTION_ROLES = ("q", "k", "v", "r")
"""The default: the inputs of attention, as in SDLLM's table 3, or of RWKV's time mixing."""

WINDOW = 512
"""Tokens of a calibration window."""

MOMENTUM = 0.9
"""Share of the old τ in the moving average."""


class ClipRecord(BaseModel):
    """What `RECORD` holds.

    Attributes:
        clip_mode, clip_quantile, rotation, seed: settings that the thresholds were found with.
        thresholds: τ by module name.
        training: how they were trained, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_mode: str
    clip_quantile: float
    rotation: str
    seed: int
    thresholds: dict[str, float]
    training: dict[str, Any] = {}

    @classmethod
    def read(cls, folder: Path) -> "ClipRecord":
        """The record in a fine-tuned model.

        Raises:
            SpikeconvError: there is none, or it is damaged.
        """
        try:
            return cls.model_validate(json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SpikeconvError(
                f"{folder} holds no {RECORD}; --clip-from takes what `spikeconv finetune` made."
            ) from None
        except (OSError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
            reason = str(error).strip().splitlines()[0]
            raise SpikeconvError(f"{folder / RECORD} is damaged: {reason}") from None

    def apply(self, config: SpikeConfig, source: Source) -> SpikeConfig:
        """A conversion's settings with these clips, in front of the user's overrides.

        Raises:
            SpikeconvError: the source lacks one of the linears, or the settings rotate otherwise.
        """
        names = set(source.names())
        for name in self.thresholds:
            if f"{name}.weight" not in names:
                raise SpikeconvError(f"{RECORD} has a threshold for {name}, which {source.path} does not hold.")
        for field in ("rotation", "seed"):
            asked, found = getattr(config, field), getattr(self, field)
            if asked != found:
                raise SpikeconvError(f"The thresholds were found with {field}={found}, not {asked}; convert with that.")
        shared = {"clip_mode": self.clip_mode, "clip_quantile": self.clip_quantile}
        clips = {name: {**shared, "clip_threshold": value} for name, value in self.thresholds.items()}
        return _with_overrides(config, clips)


def clip_roles(config: SpikeConfig, family: Family, mode: str, quantile: float, roles: Iterable[str]) -> SpikeConfig:
    """A conversion's settings that clip the inputs of some roles (or name patterns); none: those of attention.

    Raises:
        SpikeconvError: the mode or the quantile is impossible.
    """
    known = {linear.role for linear in family.linears}
    chosen = tuple(roles) or tuple(role for role in ATTENTION_ROLES if role in known)
    SpikeConfig.parse({"clip_quantile": quantile})  # names the field alone, without the role
    return _with_overrides(config, {role: {"clip_mode": mode, "clip_quantile": quantile} for role in chosen})


def needs_thresholds(plan: Plan) -> bool:
    """Whether a plan clips anywhere."""
    return any(job.scheme.clip_mode != "none" for job in plan.jobs)


def with_thresholds(config: SpikeConfig, thresholds: dict[str, float]) -> SpikeConfig:
    """A conversion's settings with τ by module name."""
    settings = {name: {"clip_threshold": value} for name, value in thresholds.items()}
    return SpikeConfig.parse({**config.model_dump(), "overrides": [*config.overrides, *_overrides(settings)]})


def clip_inputs(model: Any, config: SpikeConfig) -> list[MembraneClip]:
    """Clip the inputs of a float model's linears where the settings say so; linears that share an encode share τ.

    Args:
        model: a supported `PreTrainedModel` with its own linears.
        config: settings as a plan holds them.
    """
    clips: dict[Any, MembraneClip] = {}
    for linear in family_of(model).layout(model.config.get_text_config().num_hidden_layers):
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None or scheme.clip_mode == "none":
            continue
        module, key = model.get_submodule(linear.name), (linear.group, *scheme.encoding)
        if key not in clips:
            center = model.get_submodule(linear.center) if linear.center else None
            constant = None if center is None or center.bias is None else center
            clips[key] = MembraneClip(module.in_features, scheme, constant)
        clips[key].attach(linear.name, module)
    return list(clips.values())


def calibrate(model: Any, config: SpikeConfig, windows: Tensor, track: Track = silent) -> dict[str, float]:
    """τ by module name: the moving average of the quantile over windows of a text, layer behind clipped layer.

    Args:
        model: a float model, which is clipped from then on.
        config: settings as a plan holds them.
        windows: token ids [windows, tokens].
        track: progress display.
    """
    clips = clip_inputs(model, config)
    with torch.no_grad():
        for ids in track(windows, "calibrating", len(windows)):
            model(ids[None].to(model.device), use_cache=False, logits_to_keep=1)
            for clip in clips:
                clip.update(MOMENTUM)
    return thresholds_of(clips)


def calibrated(source: Source, config: SpikeConfig, plan: Plan, text: str, tokens: int, track: Track = silent) -> Plan:
    """A plan with τ wherever it clips, from the first `tokens` tokens of a text.

    The whole float model is loaded for it; nothing else of a conversion is.

    Args:
        source: what will be converted.
        config: the settings that `plan` was made from.
        plan: the conversion.
        text: the calibration text.
        tokens: how much of it.
        track: progress display.

    Raises:
        SpikeconvError: the text is shorter.
    """
    loaded = load_float(source)
    window = min(WINDOW, tokens, longest_window(loaded.model) or WINDOW)
    windows = token_windows(loaded, text, window, tokens)
    if windows.numel() < tokens - tokens % window:
        raise SpikeconvError(
            f"The calibration text has fewer than {tokens} tokens; give a longer --clip-text or lower --clip-tokens."
        )
    return make_plan(source, with_thresholds(config, calibrate(loaded.model, plan.config, windows, track)))


def thresholds_of(clips: list[MembraneClip]) -> dict[str, float]:
    """τ by module name.

    Raises:
        SpikeconvError: one is no number.
    """
    result = {name: float(clip.threshold) for clip in clips for name in clip.linears if clip.threshold is not None}
    for name, value in result.items():
        if value != value or abs(value) == float("inf"):
            raise SpikeconvError(f"The membrane potential in front of {name} is {value}; the model is damaged.")
    return result


def _with_overrides(config: SpikeConfig, settings: dict[str, dict[str, Any]]) -> SpikeConfig:
    return SpikeConfig.parse({**config.model_dump(), "overrides": [*_overrides(settings), *config.overrides]})


def _overrides(settings: dict[str, dict[str, Any]]) -> list[Override]:
    return [Override(pattern=pattern, settings=fields) for pattern, fields in settings.items()]
