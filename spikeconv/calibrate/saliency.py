"""Which channels of an input get more bits: those whose rounding would change the outputs most (SpikeLLM).

    score_i = mean over tokens of u_i (u W^T W)_i

the first-order Taylor term of ½ ‖u W^T‖², with u what the encoder rounds and W its weight in that basis. Linears that
share an encode share their channels, by the sum of their scores.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.calibrate.streamed import BATCH_TOKENS, constant_of, streamed_model
from spikeconv.config import GifInputs, LinearScheme
from spikeconv.errors import SpikeconvError
from spikeconv.families import ModuleLinear, find_family
from spikeconv.progress import Track, silent
from spikeconv.rotation import Rotation
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config

__all__ = ["salient_channels", "select"]


def salient_channels(
    source: Source,
    schemes: Mapping[str, LinearScheme],
    windows: Tensor,
    diagonals: Mapping[str, Tensor] | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> dict[str, Tensor]:
    """The salient channels uint8 [n] of linears with `inputs.codec=gif`, by module name.

    The float model runs with one layer in memory.

    Args:
        source: in the basis of the conversion, but for γ (with rotation=quarot it is divided off here).
        schemes: by module name.
        windows: token ids [windows, tokens].
        diagonals: the factors d [n] by group that encoders multiply by.
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.

    Raises:
        SpikeconvError: the input of a linear is not finite.
    """
    config, model = hf_config(source.config), streamed_model(source)
    scores: dict[object, _Scores] = {}
    found: dict[str, _Scores] = {}
    for linear in find_family(source.config).layout(config):
        scheme = schemes.get(linear.name)
        if scheme is None or not isinstance(scheme.inputs, GifInputs):
            continue
        key, d = (linear.group, scheme.encoding), (diagonals or {}).get(linear.group)
        found[linear.name] = scores.setdefault(key, _Scores(scheme, linear, d, constant_of(source, linear)))
        hook = partial(_see, found[linear.name], model)
        model.get_submodule(linear.name).register_forward_hook(hook)
    batches = windows.split(max(1, batch_tokens // windows.shape[1]))
    with torch.no_grad():
        for ids in track(batches, "looking for salient channels", len(batches)):
            model.base_model(ids, use_cache=False)
    return {name: select(each.mean(), each.low_share) for name, each in found.items()}


def select(scores: Tensor, low_share: float) -> Tensor:
    """uint8 [n]: 1 where a score [n] is above the ⌊low_share · n⌋-th smallest."""
    low = int(low_share * len(scores))
    if not low:
        return torch.ones(len(scores), dtype=torch.uint8)
    return (scores > scores.sort().values[low - 1]).to(torch.uint8)


class _Scores:
    """Σ over tokens and linears of u ⊙ (u W^T W), in the basis of the encoder."""

    def __init__(self, scheme: LinearScheme, linear: ModuleLinear, d: Tensor | None, center: Tensor | None) -> None:
        assert isinstance(scheme.inputs, GifInputs)
        self.low_share, self._linear, self._d, self._center = scheme.inputs.low_share, linear, d, center
        self._is_quarot = scheme.rotation.kind == "quarot"
        self._seed = None if scheme.rotation.is_none else scheme.rotation.seed
        self._total: Tensor = torch.zeros((), dtype=torch.float64)
        self._tokens = 0

    def add(self, x: Tensor, weight: Tensor, model: Any) -> None:
        """Add what a linear of weight [out, n] makes of its input [..., n]."""
        x, linear = x.detach().reshape(-1, x.shape[-1]).float(), self._linear
        if self._center is not None:
            x = x - self._center.float()
        back = (x @ weight.mT.float()) @ weight.float()
        # The encoder sees u = x f and its weight is W / f: with QuaRot γ is in W.
        factor = torch.ones(x.shape[-1]) if self._d is None else self._d.float()
        if self._is_quarot and linear.norm is not None:
            gamma = linear.norm_kind.gamma(model.get_submodule(linear.norm).weight.float())
            factor = torch.where(gamma == 0, 1, factor / gamma)
        u, back = x * factor, back / factor
        if self._seed is not None:
            rotation = Rotation(x.shape[-1], self._seed)
            u, back = rotation(u), rotation(back)
        self._total = self._total + (u.double() * back.double()).sum(0)
        self._tokens += len(x)

    def mean(self) -> Tensor:
        """Score [n] float64 of every channel."""
        if not self._total.isfinite().all():
            raise SpikeconvError(f"The input of {self._linear.name} is not finite on the calibration text.")
        return self._total / max(1, self._tokens)


def _see(scores: _Scores, model: Any, module: nn.Module, arguments: tuple[Tensor, ...], _output: Any) -> None:
    scores.add(arguments[0], module.weight, model)  # type: ignore[arg-type] # a linear has one
