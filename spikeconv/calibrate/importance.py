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
from spikeconv.calibrate.streamed import BATCH_TOKENS, layers_of, streamed_model
from spikeconv.families import ModuleLinear
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source

__all__ = ["token_importance"]

CAP = 3.0
"""In medians."""
SEED = 0
"""Of the labels."""


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
    model = streamed_model(source, with_head=True)
    layers = layers_of(source, model)
    group_of = {linear.name: linear.group for linear in layout if linear.group in groups}
    squares: dict[str, list[Tensor]] = {group: [] for group in groups}
    generator = torch.Generator().manual_seed(SEED)
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    for ids in track(batches, "asking the loss what tokens matter", len(batches)):
        found: dict[str, Tensor] = {}
        for layer in output_gradients(model, layers, group_of, ids, generator):
            for name, seen in layer.items():
                group = group_of[name]
                found[group] = found.get(group, torch.tensor(0.0)) + seen.gradient.square().sum(-1)
        for group, square in found.items():
            squares[group].append(square.view(ids.shape))
    return {group: _capped(torch.cat(parts).sqrt()) for group, parts in squares.items()}


def _capped(norms: Tensor) -> Tensor:
    median = norms.median()
    return (norms / median).clamp(max=CAP) if median > 0 else torch.ones_like(norms)
