"""Where a model is clipped, and at which τ: the moving average of a quantile of its membrane potentials on a text."""

from typing import Any

import torch
from torch import Tensor

from spikeconv.config import SpikeConfig
from spikeconv.data.texts import longest_window, token_windows
from spikeconv.errors import SpikeconvError
from spikeconv.families import center_of, family_of
from spikeconv.nn.clip import MembraneClip
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.sources.float_model import load_float

__all__ = ["MOMENTUM", "calibrate", "calibrate_source", "clip_inputs", "thresholds_of"]

WINDOW = 512
"""Tokens of a calibration window."""

MOMENTUM = 0.9
"""Share of the old τ in the moving average."""


def clip_inputs(model: Any, config: SpikeConfig) -> list[MembraneClip]:
    """Clip the inputs of a float model's linears where the settings say so; linears that share an encode share τ.

    Args:
        model: a supported `PreTrainedModel` with its own linears.
        config: settings as a plan holds them.
    """
    clips: dict[Any, MembraneClip] = {}
    for linear in family_of(model).layout(model.config.get_text_config()):
        scheme = config.for_linear(linear.name, linear.role)
        if scheme is None or scheme.clip is None:
            continue
        module, key = model.get_submodule(linear.name), (linear.group, *scheme.encoding)
        if key not in clips:
            clips[key] = MembraneClip(module.in_features, scheme, center_of(model, linear))
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


def calibrate_source(
    source: Source, config: SpikeConfig, text: str, tokens: int, track: Track = silent
) -> dict[str, float]:
    """τ by module name, wherever a conversion clips, from the first `tokens` tokens of a text.

    The whole float model is loaded for it; nothing else of a conversion is.

    Args:
        source: what will be converted.
        config: settings as a plan holds them.
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
    return calibrate(loaded.model, config, windows, track)


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
