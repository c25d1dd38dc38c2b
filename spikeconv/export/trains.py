"""What some linears are sent while their model runs: spike trains, and what their slots are worth.

A count k of a token is Σ_t weight_t · spike_t over the slots of its code. Decimal digits (`multihead`) are counts one
after the other on one clock, each in slots of its own that are worth ten times those of the next digit: then one
accumulator takes them all, and one scale turns it back.

    acc = Σ_t Σ_i weight_t · spike_t,i · W[:, i] - z · Σ_i W[:, i],    output = acc · scale · weight_scale + bias
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikeconv.codecs import MultiheadCodec
from spikeconv.errors import SpikeconvError
from spikeconv.nn import SpikeLinear, spike_linears
from spikeconv.nn.encoder import Encoding
from spikeconv.record.watching import Kept, KeptCounts
from spikeconv.suggest import matching

__all__ = ["Trains", "kept_trains", "spiking_linears"]


class Trains(NamedTuple):
    """What one linear was sent, token by token.

    Attributes:
        spikes: int8 [slots, tokens, in] of -1, 0 and 1.
        slot_weights: what a spike of each slot is worth.
        scale: float32 [tokens], of the counts.
        zero_point: int32 [tokens], or None for signed counts.
        inputs: [tokens, in], of which those are, in the model's dtype.
        encodings: theirs, forward by forward.
    """

    spikes: Tensor
    slot_weights: list[int]
    scale: Tensor
    zero_point: Tensor | None
    inputs: Tensor
    encodings: list[Encoding]

    def accumulators(self, linear: SpikeLinear) -> Tensor:
        """The model's own accumulators int64 [tokens, out], digits added up as their slots are."""
        found = [linear.accumulate(encoding, "dense").long() for encoding in self.encodings]
        codec = linear.encoder.codec
        if isinstance(codec, MultiheadCodec):
            worth = torch.tensor(_digits(codec), device=found[0].device)
            found = [(acc * worth.view(-1, *[1] * (acc.dim() - 1))).sum(0) for acc in found]
        return torch.cat([acc.reshape(-1, acc.shape[-1]) for acc in found])


def spiking_linears(model: nn.Module, patterns: Iterable[str] | None = None) -> list[str]:
    """Names of the linears that some patterns mean; of the first, without patterns.

    Raises:
        SpikeconvError: the model sends no spikes, or a pattern means none of its linears.
    """
    known = [name for name, linear in spike_linears(model).items() if linear.encoder.codec is not None]
    if not known:
        raise SpikeconvError(f"This {type(model).__name__} sends no spikes: its inputs stay float.")
    return matching(known, patterns or [known[0]])


def kept_trains(model: nn.Module, names: list[str], run: Callable[[], object]) -> dict[str, Trains]:
    """What some linears are sent while something runs their model, by name.

    Raises:
        SpikeconvError: what one is sent is no train of one accumulator, or it was not run.
    """
    linears = spike_linears(model)
    inputs: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [linears[name].register_forward_pre_hook(partial(_keep, inputs[name])) for name in names]
    try:
        with KeptCounts(model, names) as seen, torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _trains(name, linears[name], seen.kept[name], inputs[name]) for name in names}


def _keep(kept: list[Tensor], _linear: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    kept.append(arguments[0].reshape(-1, arguments[0].shape[-1]))


def _trains(name: str, linear: SpikeLinear, kept: list[Kept], inputs: list[Tensor]) -> Trains:
    codec, code, encoded = linear.encoder.codec, linear.encoder.code, [each.spikes for each in kept]
    if not encoded or codec is None:
        raise SpikeconvError(f"{name} was not run.")
    if encoded[0].steps > 1:
        raise SpikeconvError(
            f"{name} reads neurons of {encoded[0].steps} time steps, streams of the whole network whose outputs are "
            "averaged at its end: no train of one linear says them."
        )
    if encoded[0].channels is not None:
        raise SpikeconvError(f"{name} reads salient channels with a scale of their own: they need two accumulators.")
    weights = code.weights(codec.largest_count)
    spikes = [each.train() for each in kept]
    if isinstance(codec, MultiheadCodec):
        digits = _digits(codec)
        spikes = [each.transpose(0, 1).flatten(0, 1) for each in spikes]  # plane by plane, each slot by slot
        scale = [each.scale[-1] for each in encoded]
        weights = [digit * weight for digit in digits for weight in weights]
    else:
        scale = [each.scale for each in encoded]
    zeros = [each.zero_point.reshape(-1) for each in encoded if each.zero_point is not None]
    return Trains(
        torch.cat([each.reshape(len(each), -1, each.shape[-1]) for each in spikes], 1),
        weights,
        torch.cat([each.reshape(-1) for each in scale]),
        torch.cat(zeros).int() if zeros else None,
        torch.cat(inputs),
        [Encoding(each, None) for each in encoded],
    )


def _digits(codec: MultiheadCodec) -> list[int]:
    """What the planes of decimal digits are worth, in units of the last."""
    return [10 ** (codec.layers - 1 - layer) for layer in range(codec.layers)] * codec.time_steps
