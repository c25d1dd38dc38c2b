"""A layer of transformers' cache whose keys and values lie in the engine's."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from spikeconv.engine import Engine, StateCache
from spikeconv.integrations.attention import SpikingLayer, SpikingWindowLayer
from spikeconv.nn import KvCode

__all__ = ["EngineLayer", "EngineRowsLayer", "EngineStates", "cut_off", "states_of"]

ROOM = 256
"""Tokens more than there are that a cache has room for when it is made; it then doubles."""


class EngineStates:
    """What all layers of one cache have in common.

    Attributes:
        held: keys and values.
        batch: texts.
        length: places that are taken.
    """

    def __init__(self, held: StateCache, length: int) -> None:
        self.held, self.batch, self.length = held, held.slots, length

    def make_room(self, length: int) -> None:
        """Have room for so many places."""
        if length > self.held.capacity:
            self.held.grow(max(length + ROOM, 2 * self.held.capacity), self.length)


class EngineLayer(DynamicLayer):
    """Shows its keys and values [batch, key heads, length, head_dim] as views; whoever sets others detaches it."""

    _states: EngineStates | None = None
    _index = 0

    def __init__(self, states: EngineStates, index: int) -> None:
        super().__init__()
        self._share(states, index)

    def _share(self, states: EngineStates, index: int) -> None:
        self._states, self._index = states, index
        self.is_initialized = True
        self.device, self.dtype = torch.device("cpu"), states.held.keys.dtype

    @property
    def states(self) -> EngineStates | None:
        """What it shares with the other layers, as long as it does."""
        return self._states

    def _show(self, name: str) -> Any:
        states = self._states
        if states is None:
            return self.__dict__.get("_" + name)
        return getattr(states.held, name)[self._index, :, :, : states.length]

    def _set(self, name: str, value: Tensor | None) -> None:
        if self._states is not None:
            for each in ("keys", "values"):
                self.__dict__["_" + each] = self._show(each)
            self._states = None
        self.__dict__["_" + name] = value

    keys = property(lambda self: self._show("keys"), lambda self, value: self._set("keys", value))
    values = property(lambda self: self._show("values"), lambda self, value: self._set("values", value))

    def get_seq_length(self) -> int:
        """Places that are taken."""
        return super().get_seq_length() if self._states is None else self._states.length


class EngineRowsLayer(EngineLayer, SpikingLayer):
    """The same of rows of counts [batch, key heads, length, row_bytes]; once detached it goes on as a SpikingLayer."""

    def __init__(self, states: EngineStates, index: int, code: KvCode) -> None:
        SpikingLayer.__init__(self, code)
        self._share(states, index)


FLOATS = (DynamicLayer, EngineLayer, DynamicSlidingWindowLayer)
ROWS = (SpikingLayer, EngineRowsLayer, SpikingWindowLayer)


def states_of(cache: Cache, engine: Engine, batch: int) -> EngineStates | None:
    """The engine's states behind a cache, made or taken over where it is one that can be; None where it cannot.

    Its layers are EngineLayers afterwards.
    """
    layers: list[Any] = cache.layers
    if not layers and cache.layer_class_to_replicate is not None:
        if cache.layer_class_to_replicate is not DynamicLayer or cache.offloading:
            return None
    elif len(layers) != engine.layers:
        return None
    first = layers[0] if layers else None
    if isinstance(first, EngineLayer) and (states := first.states) is not None:
        same = all(isinstance(layer, EngineLayer) and layer.states is states for layer in layers)
        return states if same and states.batch == batch and engine.reads(states.held) else None
    if not all(_can_be_taken(layer, batch, bool(engine.codes)) for layer in layers) or cache.offloading:
        return None
    length = layers[0].get_seq_length() if layers else 0
    if any(layer.get_seq_length() != length for layer in layers):
        return None
    states = EngineStates(engine.cache(batch, length + ROOM), length)
    for index, layer in enumerate(layers if length else ()):
        states.held.keys[index, :, :, :length] = layer.keys
        states.held.values[index, :, :, :length] = layer.values
    if engine.codes:
        cache.layers = [EngineRowsLayer(states, index, code) for index, code in enumerate(engine.codes)]
    else:
        cache.layers = [EngineLayer(states, index) for index in range(engine.layers)]
    return states


def cut_off(cache: Cache, length: int) -> bool:
    """Keep only so many of the places of a cache, from the first; False where it cannot be told to.

    transformers' own `crop` would copy the keys and values of engine layers out of what they share.
    """
    layers: list[Any] = cache.layers
    if layers and all(isinstance(layer, EngineLayer) for layer in layers):
        states = layers[0].states
        if states is not None and all(layer.states is states for layer in layers):
            states.length = min(states.length, length)
            return True
    if (more := cache.get_seq_length() - length) > 0:
        try:
            cache.crop(-more)
        except (ValueError, RuntimeError):  # a window that slides has dropped some of them
            return False
    return True


def _can_be_taken(layer: Any, batch: int, counts: bool) -> bool:
    """Whether a layer is empty, or holds keys of all places on a CPU: in float32, or as rows of counts."""
    if type(layer) not in (ROWS if counts else FLOATS):
        return False
    if layer.get_seq_length() == 0:
        return not getattr(layer, "record_past", False)
    keys = layer.keys
    return (
        not isinstance(layer, DynamicSlidingWindowLayer)
        and keys.dtype == (torch.uint8 if counts else torch.float32)
        and keys.is_cpu
        and keys.dim() == 4
        and keys.shape[0] == batch
    )
