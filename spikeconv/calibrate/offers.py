"""What other settings of an encoder would cost and spoil on a text: spikes per input, and nats per token.

The inputs x of each group of linears are encoded with every candidate. Its error is

    mean over tokens of (g · (Ŵ x̂ - W x))² / 2

with W all weights of the group, Ŵ what rounding to nearest makes of them in the candidate's basis, and g the gradient
of the loss by the outputs (see `gradients`): how far the predictions move. For small errors those of all groups add up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.calibrate.gradients import Seen, output_gradients
from spikeconv.config import CountInputs, LinearScheme
from spikeconv.config.paths import Tree
from spikeconv.families import ModuleLinear
from spikeconv.nn import Encoder
from spikeconv.progress import Track, silent
from spikeconv.sources.base import Source
from spikeconv.weights import dequantize, quantize_blocks, rounding_of

__all__ = ["Candidate", "Menu", "Offer", "offers_of"]

CHUNK = 256
"""Tokens that are encoded at once, so that what every candidate reads stays in cache."""


class Candidate(NamedTuple):
    """Settings to try, and the scheme that they make."""

    settings: Tree
    scheme: LinearScheme


class Offer(NamedTuple):
    """What a candidate costs and spoils.

    Attributes:
        settings: of the candidate.
        spikes: per input.
        error: nats per token.
    """

    settings: Tree
    spikes: float
    error: float


@dataclass(frozen=True)
class Menu:
    """What a group of linears can have.

    Attributes:
        names: of the linears.
        macs: products of a token.
        offers: in the order of the candidates.
    """

    names: tuple[str, ...]
    macs: int
    offers: tuple[Offer, ...]


class _Sums:
    """Sums over tokens for one group."""

    def __init__(self, linears: Sequence[ModuleLinear], candidates: Sequence[Candidate], source: Source) -> None:
        self.linears, self.candidates = linears, candidates
        width, center = source.shape(f"{linears[0].name}.weight")[1], linears[0].center
        self.constant = source.load(f"{center}.bias").float() if center else None
        self.encoders = [Encoder(width, scheme) for _, scheme in candidates]
        self.tokens, self.macs = 0, 0
        self.histograms = [torch.tensor(0)] * len(candidates)
        self.errors = torch.zeros(len(candidates), dtype=torch.float64)

    def add(self, linears: Sequence[Seen]) -> None:
        """Encode the input of the group's linears with each candidate, but for its constant part."""
        x = linears[0].x if self.constant is None else linears[0].x - self.constant
        weight = torch.cat([each.weight for each in linears])
        self.tokens, self.macs = self.tokens + len(x), weight.numel()
        rounded: dict[Any, Tensor] = {}
        for encoder in self.encoders:
            if (basis := _basis(encoder)) not in rounded:
                rounded[basis] = _rounded(weight, encoder)
        gradients = torch.cat([each.gradient for each in linears], -1)
        for part, gradient in zip(x.split(CHUNK), gradients.split(CHUNK), strict=True):
            self._add(part, (gradient @ weight * part).sum(-1), {key: gradient @ w for key, w in rounded.items()})

    def _add(self, x: Tensor, wanted: Tensor, back: dict[Any, Tensor]) -> None:
        """Encode x [tokens, n] with each candidate, g · W x and gᵀ Ŵ by basis given: no product for each of them."""
        potentials: dict[Any, Tensor] = {}
        for index, encoder in enumerate(self.encoders):
            if (rotation := encoder.scheme.rotation) not in potentials:
                potentials[rotation] = encoder.potential(x)
            assert encoder.codec is not None, "a candidate encodes its input into counts"
            counts = encoder.codec.encode(potentials[rotation], histogram=True)
            moved = torch.linalg.vecdot(back[_basis(encoder)], counts.decode()) - wanted
            self.errors[index] += moved.double().square().sum() / 2
            self.histograms[index] = self.histograms[index] + counts.histogram

    def menu(self) -> Menu:
        """Means over the tokens."""
        spikes = map(self._spikes, self.encoders, self.histograms)
        errors = (self.errors / self.tokens).tolist()
        offers = (Offer(each.settings, s, e) for each, s, e in zip(self.candidates, spikes, errors, strict=True))
        return Menu(tuple(linear.name for linear in self.linears), self.macs, tuple(offers))

    def _spikes(self, encoder: Encoder, histogram: Tensor) -> float:
        """Per input."""
        inputs = encoder.scheme.inputs
        assert isinstance(inputs, CountInputs)
        sizes = torch.arange(inputs.count_min, inputs.count_max + 1).abs()
        sent = int((encoder.code.spikes(int(sizes.max()))[sizes] * histogram).sum())
        return sent / (self.tokens * encoder.in_features)


def _basis(encoder: Encoder) -> Any:
    """Encoders with the same one meet the same rounded weights."""
    return encoder.scheme.rotation, encoder.scheme.weights


def _rounded(weight: Tensor, encoder: Encoder) -> Tensor:
    """Ŵ [out, in] in the basis of the counts."""
    scheme = encoder.scheme
    turned = weight if encoder.rotation is None else encoder.rotation(weight)
    if scheme.weights.is_float:
        return turned
    quantized = quantize_blocks([turned], len(turned), rounding_of(scheme.weights))
    return dequantize(ops.unpack(quantized.packed, weight.shape[1]), quantized.scale)


def offers_of(
    source: Source,
    groups: Sequence[Sequence[ModuleLinear]],
    candidates: Callable[[ModuleLinear], Sequence[Candidate]],
    windows: Tensor,
    *,
    track: Track = silent,
) -> list[Menu]:
    """The menu of each group, with one decoder layer of the float model in memory.

    Args:
        source: a float source, balanced if the conversion balances.
        groups: linears that share an encoder.
        candidates: what to try for one, the same for its whole group; all of them send counts.
        windows: token ids [windows, tokens].
        track: progress display.
    """
    sums = [_Sums(linears, candidates(linears[0]), source) for linears in groups]
    names = [linear.name for linears in groups for linear in linears]
    for seen in output_gradients(source, names, windows, "trying encoders", track=track):
        for each in sums:
            if each.linears[0].name in seen:
                each.add([seen[linear.name] for linear in each.linears])
    return [each.menu() for each in sums]
