"""What turns the input of one or several linears into spike counts.

x ─▶ minus its constant part, times its balance, or RMSNorm, where they are done here ─▶
rotation (γ already applied) ─▶ clip ─▶ counts, scale
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeconv import ops
from spikeconv.codecs import CountCodec, GifCodec, NeuronCodec, Norm, SpikeCounts, codec_of
from spikeconv.codes import code_for
from spikeconv.config import FloatInputs, LinearScheme
from spikeconv.nn.firing import fired
from spikeconv.nn.gradients import flow, rotated, straight
from spikeconv.rotation import Rotation

__all__ = ["CALIBRATED", "Encoder", "Encoding", "FoldedNorm"]

CALIBRATED = ("input_threshold", "input_balance", "input_salient", "input_alpha")
"""Buffers of linears that say something of their input: the same in all linears of a group, of which one tells it."""


class FoldedNorm(nn.Module):
    """The place of an RMSNorm that the encoder behind it computes: passes its input through, keeps γ [n] and ε."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"{tuple(self.weight.shape)}, eps={self.epsilon}, computed by the encoder"


class Encoding(NamedTuple):
    """Either spike counts or, for schemes with float activations, the rotated input [..., n] float32."""

    spikes: SpikeCounts | None
    potential: Tensor | None

    def decode(self) -> Tensor:
        """The membrane potential as float32 [..., n]."""
        if self.spikes is not None:
            return self.spikes.decode()
        assert self.potential is not None
        return self.potential


class Encoder:
    """Encodes the input of the linears of one group; the `observers`, if any, are told of every encoding, the `readers`
    of every input [..., n] without its constant part, before it is encoded.

    Another `scheme` brings another codec and rotation.

    Args:
        in_features: n.
        scheme: settings of the linears.
        norm: an RMSNorm that is computed here.
        center: a LayerNorm whose bias [n] is a constant part of the input and is taken off first.

    `held_by` has, by name of such a buffer, the linear that is asked for it: `input_balance` [n] float32, d, if the
    input is balanced here; `input_threshold` [1] float32, τ, where the scheme clips; `input_salient` [n] uint8, where
    some channels have more bits; `input_alpha` [T] float32, where the input passes neurons.
    """

    def __init__(
        self, in_features: int, scheme: LinearScheme, norm: FoldedNorm | None = None, center: Any = None
    ) -> None:
        self.in_features = in_features
        self.scheme = scheme
        self.norm = norm
        self.center = center
        self.held_by: dict[str, nn.Module] = {}
        self.observers: list[Callable[[SpikeCounts], None]] = []
        self.readers: list[Callable[[Tensor], None]] = []

    @property
    def is_watched(self) -> bool:
        """Whether anybody is told of anything."""
        return bool(self.observers or self.readers)

    @property
    def scheme(self) -> LinearScheme:
        """Settings of the linears."""
        return self._scheme

    @scheme.setter
    def scheme(self, scheme: LinearScheme) -> None:
        self._scheme = scheme
        rotation = scheme.rotation
        self.rotation = None if rotation.is_none else Rotation(self.in_features, rotation.seed)
        self.codec = None if isinstance(scheme.inputs, FloatInputs) else codec_of(scheme.inputs)
        self.code = code_for(scheme.code)

    def __call__(self, x: Tensor) -> Encoding:
        """Encode x [..., in_features]."""
        return self.encode(self.centered(x))

    def centered(self, x: Tensor) -> Tensor:
        """x without its constant part, which is in the bias, times d: float32 if there is either."""
        centered = x if self.center is None else x.float() - self.center.bias.float()
        d = self.held("input_balance")
        return centered if d is None else centered.float() * d

    def held(self, name: str) -> Tensor | None:
        """What one of the linears has in a buffer of `CALIBRATED`; None where none has it."""
        holder = self.held_by.get(name)
        if holder is None:
            return None
        return holder._buffers[name] if name in holder._buffers else holder._parameters[name]

    @property
    def prepares(self) -> bool:
        """Whether `centered` changes anything."""
        return self.center is not None or "input_balance" in self.held_by

    def encode(self, x: Tensor) -> Encoding:
        """Encode what `centered` gave, x [..., in_features]."""
        for reader in tuple(self.readers):
            reader(x)
        if self.codec is None:
            return Encoding(None, self.potential(x))
        spikes = self.codec.encode(x, self.rotation, self.folded(), self.calibrated, bool(self.observers))
        return self._told(spikes)

    def potential(self, x: Tensor) -> Tensor:
        """What is rounded in the end: x after norm, rotation and clipping, float32 [..., n]; gradients pass."""
        u, clip, threshold = self.unclipped(x), self.scheme.clip, self.threshold
        return u if clip is None or threshold is None else ops.clip_potential(u, clip.mode, threshold)

    def unclipped(self, x: Tensor) -> Tensor:
        """x after norm and rotation, float32 [..., n]; gradients pass."""
        u = x.float() if self.norm is None else ops.rms_norm(x, self.norm.weight, self.norm.epsilon)
        if self.rotation is not None:
            u = rotated(u, self.rotation) if flow(u) else self.rotation(u)
        return u

    def rounded(self, u: Tensor) -> Encoding:
        """Encode a potential: `encode` in two steps, with the same bits."""
        if self.codec is None:
            return Encoding(None, u)
        codec, calibrated = self.codec, self.calibrated
        if isinstance(codec, CountCodec):
            codec, calibrated = replace(codec, clip_mode="none"), None
        return self._told(codec.encode(u, calibrated=calibrated, histogram=bool(self.observers)))

    def decoded(self, u: Tensor) -> Tensor:
        """What the counts of a potential stand for, float32 [..., n]; gradients pass as `through` says."""
        if isinstance(self.codec, NeuronCodec) and not self.observers:  # which runs its steps anyway
            return self.through(u)
        with torch.no_grad():
            encoding = self.rounded(u)
        return self.through(u) if encoding.spikes is None else self.through(u, encoding.spikes.decode())

    def through(self, u: Tensor, value: Tensor | None = None) -> Tensor:
        """The decoded potential [..., n] where gradients pass it by the surrogate of a neuron; else `value`, or u.

        Through counts they pass straight to u.
        """
        if isinstance(self.codec, NeuronCodec) and (alpha := self.calibrated) is not None:
            return fired(u, alpha, self.codec.neuron)
        return u if value is None else straight(value, u)

    def _told(self, spikes: SpikeCounts) -> Encoding:
        for observer in tuple(self.observers):
            observer(spikes)
        return Encoding(spikes, None)

    @property
    def streams(self) -> int:
        """Streams of the network that its input's rows are of: the time steps of neurons, else one."""
        return self.codec.time_steps if isinstance(self.codec, NeuronCodec) else 1

    @property
    def threshold(self) -> Tensor | None:
        """τ [1] float32, or None where nothing is clipped."""
        return None if self.scheme.clip is None else self.held("input_threshold")

    @property
    def calibrated(self) -> Tensor | None:
        """What its codec takes: τ, the salient channels, bool [n], or α of each time step."""
        if isinstance(self.codec, NeuronCodec):
            return self.held("input_alpha")
        if not isinstance(self.codec, GifCodec):
            return self.threshold
        salient = self.held("input_salient")
        return None if salient is None else salient.bool()

    def folded(self) -> Norm | None:
        """The norm in front, if it was folded in."""
        return None if self.norm is None else Norm(self.norm.weight, self.norm.epsilon)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "observers": [], "readers": []}
