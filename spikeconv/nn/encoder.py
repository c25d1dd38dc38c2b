"""What turns the input of one or several linears into spike counts, once.

x ─▶ rotation (γ already applied) ─▶ codec ─▶ counts, scale
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikeconv.codecs import CountCodec, SpikeCounts
from spikeconv.config import FLOAT_BITS, LinearScheme
from spikeconv.rotation import Rotation

__all__ = ["Encoder", "Encoding"]


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


class _Last(NamedTuple):
    """The latest encoding and the input it belongs to (held weakly, so that it is not kept alive)."""

    source: "weakref.ref[Tensor]"
    version: int | None
    encoding: Encoding
    uses_left: int


class Encoder:
    """Encoder of one group of linears that see the same input (q, k, v; gate, up).

    The first member to be called encodes, the others are handed the same counts; the counts are dropped after the
    last. Members called with another tensor, or with one that was changed in place since, encode for themselves, so
    sharing never changes a result. (Inference tensors carry no version: a change in place between two members goes
    unseen there. No supported model makes one.)
    """

    def __init__(self, in_features: int, scheme: LinearScheme) -> None:
        self.in_features = in_features
        self.scheme = scheme
        self.rotation = None if scheme.rotation == "none" else Rotation(in_features, scheme.seed)
        self.codec = None if scheme.count_bits == FLOAT_BITS else CountCodec.of(scheme)
        self.members: list[str] = []
        self.observer: Callable[[SpikeCounts], None] | None = None
        self._last: _Last | None = None

    def __call__(self, x: Tensor) -> Encoding:
        """Encode x [..., in_features]."""
        if len(self.members) < 2 or torch.compiler.is_compiling():  # a compiler merges equal encodes itself
            return self._encode(x)
        version = None if x.is_inference() else x._version
        last = self._last
        if last is not None and last.source() is x and last.version == version:
            self._last = last._replace(uses_left=last.uses_left - 1) if last.uses_left > 1 else None
            return last.encoding
        encoding = self._encode(x)
        self._last = _Last(weakref.ref(x), version, encoding, len(self.members) - 1)
        return encoding

    def _encode(self, x: Tensor) -> Encoding:
        u = x.float() if self.rotation is None else self.rotation(x)
        if self.codec is None:
            return Encoding(None, u)
        spikes = self.codec.encode(u)
        if self.observer is not None:
            self.observer(spikes)
        return Encoding(spikes, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "observer": None}
