"""Which channels of an input get more bits: those whose rounding would change the outputs most (SpikeLLM).

    score_i = mean over tokens of u_i (u W^T W)_i

the first-order Taylor term of ½ ‖u W^T‖², with u what the encoder rounds and W its weight in that basis. Linears that
share an encode share their channels, by the sum of their scores. `kv_saliency` has keys and values; one run of the
float model, with one layer in memory, finds both.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv.calibrate.kv_saliency import observe_states
from spikeconv.calibrate.scores import Scores
from spikeconv.calibrate.streamed import BATCH_TOKENS, constant_of, run_streamed, streamed_model
from spikeconv.config import GifInputs, LinearScheme
from spikeconv.families import ModuleLinear, find_family
from spikeconv.progress import Track, silent
from spikeconv.rotation import Rotation
from spikeconv.sources.base import Source
from spikeconv.sources.model_config import hf_config

__all__ = ["Salient", "salient_channels"]


class Salient(NamedTuple):
    """Salient channels by module name: of inputs uint8 [in], and of keys and values uint8 [out]."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def salient_channels(
    source: Source,
    schemes: Mapping[str, LinearScheme],
    windows: Tensor,
    diagonals: Mapping[str, Tensor],
    kv_low_share: float | None,
    kv_seed: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    track: Track = silent,
) -> Salient:
    """The salient channels of the linears with `inputs.codec=gif`, and of keys and values.

    Args:
        source: in the basis of the conversion, but for γ (with rotation=quarot it is divided off here).
        schemes: by module name.
        windows: token ids [windows, tokens].
        diagonals: the factors d [n] by group that encoders multiply by.
        kv_low_share: share of the channels of keys and values that are not salient; None: they are not looked at.
        kv_seed: of their rotation.
        batch_tokens: tokens that are run at once; windows are not split.
        track: progress display.

    Raises:
        SpikeconvError: an input, a key or a value is not finite.
    """
    layout, model = find_family(source.config).layout(hf_config(source.config)), streamed_model(source)
    states = {} if kv_low_share is None else observe_states(model, layout, kv_seed)
    inputs: dict[object, _Input] = {}
    for linear in layout:
        scheme = schemes.get(linear.name)
        if scheme is None or not isinstance(scheme.inputs, GifInputs):
            continue
        key = linear.group, scheme.encoding
        if key not in inputs:
            inputs[key] = _Input(scheme, linear, model, diagonals.get(linear.group), constant_of(source, linear))
            model.get_submodule(linear.name).register_forward_pre_hook(partial(_see, inputs[key]))
        inputs[key].members.append(linear.name)
    run_streamed(model, windows, batch_tokens, "looking for salient channels", track)
    return Salient(
        {name: found for each in inputs.values() for found in [each.salient()] for name in each.members},
        {name: each.salient(kv_low_share or 0.0, f"output of {name}") for name, each in states.items()},
    )


class _Input:
    """Σ over tokens and linears of u ⊙ (u W^T W), in the basis of the encoder."""

    def __init__(
        self, scheme: LinearScheme, linear: ModuleLinear, model: Any, d: Tensor | None, center: Tensor | None
    ) -> None:
        assert isinstance(scheme.inputs, GifInputs)
        self.members: list[str] = []
        self._low_share, self._linear, self._model = scheme.inputs.low_share, linear, model
        self._d, self._center, self._scores = d, center, Scores()
        self._settings = scheme.rotation

    def add(self, x: Tensor) -> None:
        """Add what the linears make of their input [..., n]; their weights are in memory now."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        if self._center is not None:
            x = x - self._center.float()
        # The encoder sees u = x f and its weight is W / f: with QuaRot γ is in W.
        factor = torch.ones(x.shape[-1]) if self._d is None else self._d.float()
        if self._settings.kind == "quarot" and self._linear.norm is not None:
            norm = self._model.get_submodule(self._linear.norm)
            gamma = self._linear.norm_kind.gamma(norm.weight.float())
            factor = torch.where(gamma == 0, 1, factor / gamma)
        u, sums = self._rotated(x * factor).double(), torch.zeros(x.shape[-1], dtype=torch.float64)
        for name in self.members:
            weight = self._model.get_submodule(name).weight.float()
            back = (x @ weight.mT) @ weight
            sums += (u * self._rotated(back / factor).double()).sum(0)
        self._scores.add(sums, len(x))

    def salient(self) -> Tensor:
        """uint8 [n]."""
        return self._scores.salient(self._low_share, f"input of {self._linear.name}")

    def _rotated(self, values: Tensor) -> Tensor:
        return values if self._settings.is_none else Rotation(values.shape[-1], self._settings.seed)(values)


def _see(seen: _Input, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    seen.add(arguments[0])
