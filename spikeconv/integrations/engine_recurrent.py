"""The engine behind the forward of a recurrent model without its head.

RWKV-4's state is transformers': five tensors [batch, hidden, layers] that every forward changes. Those that the engine
makes are views of one piece of memory, which it goes on with as it is; others are copied into such a piece first, which
then takes their place in the list. RWKV-6's is by layer, and every forward makes a new one.
"""

from typing import Any

import torch
from torch import Tensor

from spikeconv.engine import DataMixingEngine, RecurrentEngine, RecurrentSequence, recurrent_engine, runs_recurrent
from spikeconv.integrations.engine_forward import EngineForward
from spikeconv.integrations.watched import encode_watched
from spikeconv.models.recurrent import LayerState, RecurrentOutput
from spikeconv.models.shift import refuse_left_padding

__all__ = ["RecurrentForward"]


class RecurrentForward(EngineForward):
    """The forward of an RWKV: for inference mode, and for who gives a state or asks for one, as `generate` does."""

    def _forget(self) -> None:
        super()._forget()
        self._engine: RecurrentEngine | None = None

    def _run(self, ids: Tensor, given: dict[str, Any]) -> Any:
        state, use_cache = given.get("state"), given.get("use_cache")
        if state is None and not use_cache and not torch.is_inference_mode_enabled():
            return None  # a plain call: the bits of the modules, as beside hooks, offloading or gradients
        engine = self._ready()
        if engine is None:
            return None
        held = engine.state(len(ids)) if state is None else _taken(state, engine, len(ids))
        if held is None:
            self._tell("a state that is not float32 tensors on a CPU, as the model's own are")
            return None
        by_layer = isinstance(engine, DataMixingEngine)
        if by_layer:
            refuse_left_padding(given.get("attention_mask"))
        hidden = (run_texts if self._is_unwatched() else run_watched)(engine, ids, held)
        keeps = self.model.config.use_cache if use_cache is None else use_cache
        if by_layer:
            return RecurrentOutput(last_hidden_state=hidden, state=_by_layer(held) if keeps else None)
        from transformers.models.rwkv.modeling_rwkv import RwkvOutput  # a model's own, which is loaded before it is

        return RwkvOutput(last_hidden_state=hidden, state=held if keeps or state is not None else None)

    def _ready(self) -> RecurrentEngine | None:
        """The engine; None where there is none for the model as it is now."""
        if self._engine is None or not self._engine.holds():
            self._engine = recurrent_engine(self.model) if runs_recurrent(self.model) else None
        return self._engine


def run_texts(engine: RecurrentEngine, ids: Tensor, state: list[Tensor]) -> Tensor:
    """What the head reads of texts int64 [batch, tokens], float32 [batch, tokens, hidden]."""
    return engine.forward(ids.reshape(-1), _texts(ids), state, torch.arange(ids.numel()), logits=False).view(
        *ids.shape, -1
    )


def run_watched(engine: RecurrentEngine, ids: Tensor, state: list[Tensor]) -> Tensor:
    """The same block by block; the encoders encode what they would, for those who watch."""
    hidden = torch.empty(*ids.shape, engine.hidden)
    layers = engine.layer_by_layer(ids.reshape(-1), _texts(ids), state, hidden.view(-1, engine.hidden))
    encode_watched(engine.groups, engine.reads_of, layers, ids.shape)
    return hidden


def _texts(ids: Tensor) -> list[RecurrentSequence]:
    return [RecurrentSequence(ids.shape[1], row) for row in range(len(ids))]


def _taken(state: Any, engine: RecurrentEngine, batch: int) -> list[Tensor] | None:
    """A state as the engine reads and changes it; None if it is none of such a model."""
    return _of_layers(state, engine, batch) if isinstance(engine, DataMixingEngine) else _of_all(state, engine, batch)


def _of_all(state: Any, engine: RecurrentEngine, batch: int) -> list[Tensor] | None:
    """The same list, if it is one."""
    made, parts = None, list(state) if isinstance(state, list | tuple) else []
    if len(parts) != 5 or not all(_is_plain(part, (batch, engine.hidden, engine.layers)) for part in parts):
        return None
    if not engine.reads(parts):
        for own, part in zip(made := engine.state(batch), parts, strict=True):
            own.copy_(part)
    if not isinstance(state, list):
        return made or parts
    state[:] = made or parts
    return state


class _HeldByLayer(list[LayerState]):
    """A state by layer, whose tensors are views of what the engine holds."""

    def __init__(self, layers: list[LayerState], held: list[Tensor]) -> None:
        super().__init__(layers)
        self.layers, self.held = tuple(layers), held

    def copied(self) -> list[Tensor] | None:
        """What the engine holds, copied; None where somebody put other layers into the list."""
        if len(self) != len(self.layers) or any(one is not own for one, own in zip(self, self.layers, strict=True)):
            return None
        return [part.clone() for part in self.held]


def _of_layers(state: Any, engine: DataMixingEngine, batch: int) -> list[Tensor] | None:
    """A copy of a state by layer as the engine reads it; None if it is none of such a model."""
    vector, matrix = (batch, engine.hidden), (batch, engine.heads, engine.head_size, engine.head_size)
    layers = list(state) if isinstance(state, list | tuple) else []
    if len(layers) != engine.layers or not all(
        isinstance(layer, LayerState)
        and _is_plain(layer.attention, vector)
        and _is_plain(layer.feed_forward, vector)
        and _is_plain(layer.wkv, matrix)
        for layer in layers
    ):
        return None
    if isinstance(state, _HeldByLayer) and (held := state.copied()) is not None:
        return held
    made = engine.state(batch)
    for index, layer in enumerate(layers):
        made[0][:, :, index] = layer.feed_forward
        made[1][:, :, index] = layer.attention
        made[2][index] = layer.wkv
    return made


def _by_layer(held: list[Tensor]) -> _HeldByLayer:
    parts = zip(held[1].unbind(-1), held[2].unbind(0), held[0].unbind(-1), strict=True)
    return _HeldByLayer([LayerState(*each) for each in parts], held)


def _is_plain(part: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(part, Tensor) and part.is_cpu and part.dtype == torch.float32 and part.shape == shape
