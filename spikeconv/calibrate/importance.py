"""How much the loss asks of each token's outputs, for weights that are rounded for their inputs.

    a = min(3, ‖g‖ / median ‖g‖)

g is the gradient of the loss by all outputs of a group of linears (`gradients`). Weighted with a², H = Σ a² û ûᵀ is the
Fisher information of a row of the weight, but for the outputs, which share one mean. (GuidedQuant, Kim et al. 2025,
arXiv 2505.07004, has a mean for each of several groups of outputs, and caps nothing.)
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from spikeconv.calibrate.gradients import output_gradients
from spikeconv.calibrate.moments import CAP
from spikeconv.calibrate.streamed import BATCH_TOKENS
from spikeconv.families import ModuleLinear
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["token_importance"]


def token_importance(
    source: Source,
    layout: Sequence[ModuleLinear],
    groups: Collection[str],
    windows: Tensor,
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> dict[str, Tensor]:
    """a [windows, tokens] float32 by group, with one decoder layer of the float model in memory.

    Args:
        source: a float source in the basis of the conversion.
        layout: all its linears.
        groups: names of groups of the layout.
        windows: token ids [windows, tokens].
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.
    """
    group_of = {linear.name: linear.group for linear in layout if linear.group in groups}
    squares: dict[str, list[Tensor]] = {group: [] for group in groups}
    label = "asking the loss what tokens matter"
    for layer in output_gradients(source, group_of, windows, label, batch_tokens=batch_tokens, track=track):
        found: dict[str, Tensor] = {}
        for name, seen in layer.items():
            group, square = group_of[name], seen.gradient.square().sum(-1)
            found[group] = found[group] + square if group in found else square
        for group, square in found.items():
            squares[group].append(square)
    return {group: _capped(torch.cat(parts).view(windows.shape).sqrt()) for group, parts in squares.items()}


def _capped(norms: Tensor) -> Tensor:
    median = norms.median()
    return (norms / median).clamp(max=CAP) if median > 0 else torch.ones_like(norms)
