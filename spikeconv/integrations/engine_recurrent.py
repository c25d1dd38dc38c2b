"""The engine behind the forward of a recurrent model without its head.

The state is transformers': five tensors [batch, hidden, layers] that every forward changes. Those that the engine makes
are views of one piece of memory, which it goes on with as it is; others are copied into such a piece first, which then
takes their place in the list.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.rwkv.modeling_rwkv import RwkvOutput

from spikeconv.engine import MIXED, RecurrentEngine, RecurrentSequence, runs_recurrent
from spikeconv.integrations.engine_forward import EngineForward
from spikeconv.integrations.watched import encode_watched

__all__ = ["RecurrentForward"]


class RecurrentForward(EngineForward):
    """The forward of an RWKV-4: for inference mode, and for who gives a state or asks for one, as `generate` does."""

    def _forget(self) -> None:
        super()._forget()
        self._engine: RecurrentEngine | None = None

    def _run(self, ids: Tensor, given: dict[str, Any]) -> RwkvOutput | None:
        state, use_cache = given.get("state"), given.get("use_cache")
        if state is None and not use_cache and not torch.is_inference_mode_enabled():
            return None  # a plain call: the bits of the modules, as beside hooks, offloading or gradients
        engine = self._ready()
        if engine is None:
            return None
        keeps = state is not None or (self.model.config.use_cache if use_cache is None else use_cache)
        held = engine.state(len(ids)) if state is None else _taken(state, engine, len(ids))
        if held is None:
            self._tell("a state that is not five float32 tensors [batch, hidden, layers] on a CPU")
            return None
        run = run_texts if self._is_unwatched() else run_watched
        return RwkvOutput(last_hidden_state=run(engine, ids, held), state=held if keeps else None)

    def _ready(self) -> RecurrentEngine | None:
        """The engine; None where there is none for the model as it is now."""
        if self._engine is None or not self._engine.holds():
            self._engine = RecurrentEngine(self.model) if runs_recurrent(self.model) else None
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
    encode_watched(engine.groups, MIXED, layers, ids.shape)
    return hidden


def _texts(ids: Tensor) -> list[RecurrentSequence]:
    return [RecurrentSequence(ids.shape[1], row) for row in range(len(ids))]


def _taken(state: Any, engine: RecurrentEngine, batch: int) -> list[Tensor] | None:
    """A state as the engine reads it, in the same list if it is one; None if it is none of such a model."""
    shape = (batch, engine.hidden, engine.layers)
    parts = list(state) if isinstance(state, list | tuple) else []
    if len(parts) != 5 or not all(
        isinstance(part, Tensor) and part.is_cpu and part.dtype == torch.float32 and part.shape == shape
        for part in parts
    ):
        return None
    if not engine.reads(parts):
        for own, part in zip(made := engine.state(batch), parts, strict=True):
            own.copy_(part)
        parts = made
    if not isinstance(state, list):
        return parts
    state[:] = parts
    return state
