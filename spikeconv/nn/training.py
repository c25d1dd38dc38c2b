"""Float linears that compute what their conversion will, to train through its spikes.

    y = Q(R W) û(R x) + b,      gradients straight through both roundings, and by a neuron's surrogate

The weight stays a float parameter under its own name, so that the trained model is an ordinary one; converted with the
same settings it gives the same counts and integers. α of neurons is found from the first input that they see (SpikeLM:
k · mean |m|, step by step).
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.codecs import Neuron, streams_of
from spikeconv.config import ElasticInputs, LifInputs, LinearScheme, Outputs
from spikeconv.nn.encoder import Encoder
from spikeconv.nn.firing import fired
from spikeconv.nn.gradients import flow, rotated, straight, version_of
from spikeconv.rotation import Rotation
from spikeconv.weights import dequantize, rounding_of

__all__ = ["Alpha", "TrainedInput", "TrainedLinear"]


class TrainedInput(nn.Module):
    """The input of one or several linears: its encoder, and what was calibrated of it, by the names in a checkpoint.

    Args:
        encoder: of the linears.
        held: threshold, balance or salient channels, where the scheme has some.
    """

    def __init__(self, encoder: Encoder, held: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder
        for name, tensor in held.items():
            self.register_buffer(name, tensor)
            encoder.held_by[name] = self
        self.alpha = Alpha.of(encoder.scheme)
        if self.alpha is not None:
            encoder.held_by["input_alpha"] = self.alpha
        self._last: tuple[weakref.ref[Tensor], tuple[object, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What the linears see of x [..., n], float32, in the basis of their rotation; once for all that ask for it."""
        state = version_of(x), flow(x), tuple(self.encoder.observers)
        last = self._last
        if last is None or last[0]() is not x or last[1] != state:
            u = self.encoder.potential(self.encoder.centered(x))
            if self.alpha is not None:
                self.alpha.start(u)
            last = self._last = weakref.ref(x), state, self.encoder.decoded(u)
        return last[2]

    def forget(self) -> None:
        """Let the last input go, and the graph behind it."""
        self._last = None


class TrainedLinear(nn.Module):
    """One linear.

    Args:
        linear: its parameters become those of this module.
        scheme: its settings.
        shared: its input.
        owns: whether `shared` is a part of this module, as it is of one of those that share it.
        outputs: what becomes of its outputs.
    """

    def __init__(
        self, linear: nn.Linear, scheme: LinearScheme, shared: TrainedInput, *, owns: bool, outputs: Outputs
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scheme = scheme
        self.weight, self.bias = linear.weight, linear.bias
        self.shared: Any = shared if owns else None
        self._shared = [shared]  # in a list: no part of this module's state
        self.output = Alpha.of(scheme, leak=0.0) if outputs == "neuron" else None
        rotation = scheme.rotation
        self._rotation = None if rotation.is_none else Rotation(linear.in_features, rotation.seed)

    @property
    def input(self) -> TrainedInput:
        """What it shares with others."""
        return self._shared[0]

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] of x [..., in], in the dtype of x."""
        shared = self.input
        y = shared(x) @ self.rounded_weight().mT
        center = shared.encoder.center
        if center is not None:  # W x = W (x - c) + W c
            y = y + self.weight.float() @ center.bias.float()
        y = y if self.bias is None else y + self.bias.float()
        if self.output is not None:
            self.output.start(y)
            y = self.output(y)
        result: Tensor = y.to(x.dtype)
        return result

    def rounded_weight(self) -> Tensor:
        """The rotated weight [out, in] float32 that the integers stand for."""
        weight = self.weight.float()
        if self._rotation is not None:
            weight = rotated(weight, self._rotation)
        if self.scheme.weights.is_float:
            return weight
        with torch.no_grad():
            packed, scale, *_ = rounding_of(self.scheme.weights)(weight)
            value = dequantize(ops.unpack(packed, self.in_features), scale)
        return straight(value, weight)

    def neurons(self) -> "list[Alpha]":
        """Those that are a part of this module: in front, if it owns its input, and behind."""
        in_front = self.shared.alpha if self.shared is not None else None
        return [each for each in (in_front, self.output) if each is not None]

    def calibrated(self) -> dict[str, Tensor]:
        """What its conversion must hold, by the names in a checkpoint."""
        shared = self.input
        found = dict(shared.named_buffers(recurse=False))
        for name, alpha in (("input_alpha", shared.alpha), ("output_alpha", self.output)):
            if alpha is not None:
                found[name] = alpha.input_alpha
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


class Alpha(nn.Module):
    """α [T] of neurons, a parameter where it learns; NaN until their first input."""

    input_alpha: Tensor

    def __init__(self, neuron: Neuron, inputs: ElasticInputs | LifInputs) -> None:
        super().__init__()
        self.neuron, self.inputs = neuron, inputs
        self.is_set = False
        alpha = torch.full((inputs.time_steps,), torch.nan)
        if isinstance(inputs, ElasticInputs) and inputs.alpha == "learned":
            self.input_alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("input_alpha", alpha)

    @classmethod
    def of(cls, scheme: LinearScheme, leak: float | None = None) -> "Alpha | None":
        """The neurons of a scheme; None if it has none."""
        inputs = scheme.inputs
        if not isinstance(inputs, ElasticInputs | LifInputs):
            return None
        return cls(Neuron.of(inputs, leak), inputs)

    def set(self, alpha: Tensor) -> None:
        """Take an α [T] that was found before."""
        with torch.no_grad():
            self.input_alpha.copy_(alpha)
        self.is_set = True

    @torch.no_grad()
    def start(self, u: Tensor) -> None:
        """Find α of the first input, a potential [T · rows, ..., n]; later ones change nothing."""
        if not self.is_set:
            if self.input_alpha.isnan().any():  # else a state was loaded
                k = self.inputs.k if isinstance(self.inputs, ElasticInputs) and self.inputs.alpha != "one" else None
                self.input_alpha.copy_(self.neuron.found(streams_of(u.float(), self.inputs.time_steps), k))
            self.is_set = True

    def forward(self, y: Tensor) -> Tensor:
        """What the spikes of y [T · rows, ..., n] are worth."""
        return fired(y, self.input_alpha, self.neuron)
