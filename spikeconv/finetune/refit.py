"""Weights that fit clipped inputs, in closed form: where a fine-tune starts.

Clipping leaves of an input x an image x' with another mean and scale and, worst of all, a constant part as large as
everything else; the layers behind it give nonsense. The best linear guess of x from x' repairs most of that at once:

    W ← W M,   M = argmin Σ ‖x - M x'‖² = Σ x x'ᵀ (Σ x' x'ᵀ + λ)⁻¹

Not in SDLLM, which trains from the clipped model as it is.
"""

from typing import Any

import torch
from torch import Tensor

from spikeconv.calibrate.thresholds import MOMENTUM
from spikeconv.conversion.plan import Plan
from spikeconv.nn.clip import MembraneClip
from spikeconv.progress import Track, silent

__all__ = ["enough_to_refit", "refit"]

RIDGE = 1e-3
"""λ, relative to the mean of the diagonal."""


def enough_to_refit(plan: Plan) -> int:
    """Tokens that determine M well: 16 for each of a clipped linear's inputs, and not less than 8,192."""
    return max(8192, *(16 * job.in_features for job in plan.jobs if job.scheme.clip is not None))


class _Moments:
    """Σ x x'ᵀ and Σ x' x'ᵀ of what a clip observes, [n, n] float32."""

    def __init__(self) -> None:
        self.cross: Tensor | float = 0.0
        self.gram: Tensor | float = 0.0

    def add(self, x: Tensor, clipped: Tensor) -> None:
        x, clipped = x.flatten(0, -2), clipped.flatten(0, -2)
        self.cross = self.cross + x.mT @ clipped
        self.gram = self.gram + clipped.mT @ clipped

    def solve(self) -> Tensor:
        """M [n, n] float64."""
        assert isinstance(self.cross, Tensor) and isinstance(self.gram, Tensor)
        gram = self.gram.double()
        gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)  # all may be silent
        best: Tensor = torch.linalg.solve(gram, self.cross.double(), left=False)
        return best


@torch.no_grad()
def refit(model: Any, clips: list[MembraneClip], windows: Tensor, track: Track = silent) -> None:
    """Refit the linears behind some clips to their clipped inputs, and find τ on the way.

    All layers are fitted on the inputs of the unclipped model, so that one pass over the text suffices. It holds two
    float32 matrices [n, n] for every clip.

    Args:
        model: a float model, changed in place.
        clips: those of its inputs.
        windows: token ids [windows, tokens].
        track: progress display.
    """
    moments = []
    for clip in clips:
        moments.append(_Moments())
        clip.observer = moments[-1].add
    for ids in track(windows, "refitting", len(windows)):
        model(input_ids=ids[None].to(model.device), use_cache=False, logits_to_keep=1)
        for clip in clips:
            clip.update(MOMENTUM)
    for clip, moment in zip(clips, moments, strict=True):
        clip.observer = None
        best = moment.solve()
        for name in clip.linears:
            weight = model.get_submodule(name).weight
            weight.copy_(weight.double() @ best)
