"""What other settings of an encoder would cost and spoil on a text: spikes per input, and error of the outputs.

The inputs x of each group of linears are encoded with every candidate. Its error is

    mean over tokens of ‖Ŵ x̂ - W x‖² / ‖W x‖²

with W all weights of the group and Ŵ what rounding to nearest makes of them in the candidate's basis. How much an error
hurts differs from group to group; that is not known here, and every product counts alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.calibrate.streamed import BATCH_TOKENS, streamed_model
from spikeconv.config import LinearScheme
from spikeconv.config.paths import Tree
from spikeconv.families import ModuleLinear, own_name
from spikeconv.nn import Encoder
from spikeconv.progress import Track, silent
from spikeconv.rotation import Rotation
from spikeconv.sources.base import Source
from spikeconv.weights import dequantize, quantize_rtn

__all__ = ["Candidate", "Menu", "Offer", "offers_of"]

TOKENS = 512
"""Tokens of a batch that are encoded with every candidate, evenly spread."""


class Candidate(NamedTuple):
    """Settings to try, and the scheme that they make."""

    settings: Tree
    scheme: LinearScheme


class Offer(NamedTuple):
    """What a candidate costs and spoils.

    Attributes:
        settings: of the candidate.
        spikes: per input.
        error: power of the error of the outputs, as a share of theirs.
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

    def __init__(self, linears: Sequence[ModuleLinear], candidates: Sequence[Candidate]) -> None:
        self.linears, self.candidates = linears, candidates
        self.tokens, self.macs = 0, 0
        self.spikes = torch.zeros(len(candidates), dtype=torch.float64)
        self.errors = torch.zeros(len(candidates), dtype=torch.float64)

    def add(self, model: Any, x: Tensor) -> None:
        """Encode x [tokens, n] with each candidate; the weights are in memory now."""
        weight = torch.cat([model.get_submodule(own_name(model, each.name)).weight for each in self.linears])
        first = self.linears[0]
        center = model.get_submodule(own_name(model, first.center)) if first.center else None
        self.tokens, self.macs = self.tokens + len(x), weight.numel()
        centered = x if center is None or center.bias is None else x - center.bias
        rounded: dict[Any, Tensor] = {}
        outputs = centered @ weight.mT
        wanted = outputs.square().sum(-1).clamp(min=torch.finfo(x.dtype).tiny)
        for index, (_, scheme) in enumerate(self.candidates):
            encoder = Encoder(x.shape[-1], scheme)
            assert encoder.codec is not None, "a candidate encodes its input into counts"
            encoding = encoder.encode(centered)
            assert encoding.spikes is not None
            basis = scheme.rotation, scheme.weights
            if basis not in rounded:
                rounded[basis] = _rounded(weight, encoder.rotation, scheme)
            lost = encoding.decode() @ rounded[basis].mT - outputs
            self.errors[index] += (lost.square().sum(-1) / wanted).double().sum()
            of_count = encoder.code.spikes(encoder.codec.largest_count)
            self.spikes[index] += of_count[encoding.spikes.counts.short().abs().long()].sum() / x.shape[-1]


def _rounded(weight: Tensor, rotation: Rotation | None, scheme: LinearScheme) -> Tensor:
    """Ŵ [out, in] in the basis of the counts."""
    turned = weight if rotation is None else rotation(weight)
    if scheme.weights.is_float:
        return turned
    quantized = quantize_rtn(turned, scheme.weights.bits, scheme.weights.clip == "mse")
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
    model = streamed_model(source)
    sums = [_Sums(linears, candidates(linears[0])) for linears in groups]
    for each in sums:
        module = model.get_submodule(own_name(model, each.linears[0].name))
        module.register_forward_pre_hook(partial(_see, each, model))
    batches = windows.split(max(1, BATCH_TOKENS // windows.shape[1]))
    with torch.no_grad():
        for ids in track(batches, "trying encoders", len(batches)):
            model(ids, use_cache=False)
    return [_menu(each) for each in sums]


def _menu(sums: _Sums) -> Menu:
    spikes, errors = (sums.spikes / sums.tokens).tolist(), (sums.errors / sums.tokens).tolist()
    offers = (Offer(each.settings, s, e) for each, s, e in zip(sums.candidates, spikes, errors, strict=True))
    return Menu(tuple(linear.name for linear in sums.linears), sums.macs, tuple(offers))


def _spread(x: Tensor) -> Tensor:
    """Some tokens [tokens, n] of x [..., n]."""
    flat = x.detach().flatten(0, -2)
    return flat[:: max(1, len(flat) // TOKENS)]


def _see(sums: _Sums, model: Any, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    sums.add(model, _spread(arguments[0]))
