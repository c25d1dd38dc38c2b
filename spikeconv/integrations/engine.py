"""The engine behind transformers' interface: what `generate`, a pipeline or a plain call of a model runs.

The forward of the decoder (without its head) is replaced on the instance, so whatever is built on it, losses and
`logits_to_keep` included, stays transformers' own. Keys and values live in the engine's cache; transformers' shows them
as the tensors that it would have, and may crop, reorder or copy them. What the engine does not do (gradients, hooks,
hidden states of layers, other caches, masks that are no padding on the left) takes the modules' own way, and so does a
plain call: the engine is for `torch.inference_mode()`, and for whoever gives a cache, as `generate` does.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from spikeconv.engine import (
    READ,
    Engine,
    Sequence,
    StateCache,
    Texts,
    attention_of,
    head_module,
    obstacle,
    runs_decoder,
    runs_recurrent,
    texts_of,
)
from spikeconv.errors import SpikeconvError, SpikeconvWarning
from spikeconv.integrations.attention import was_made
from spikeconv.integrations.engine_cache import states_of
from spikeconv.integrations.engine_forward import EngineForward
from spikeconv.integrations.engine_recurrent import RecurrentForward
from spikeconv.integrations.head import HeadForward
from spikeconv.integrations.memory import KEYWORDS
from spikeconv.integrations.watched import encode_watched, watches
from spikeconv.nn import attention_codes, finish_first_forward

__all__ = ["engine_of", "keeps_floats", "modules_only", "set_cache_dtype", "use_engine"]

MOST_POSITIONS = 1 << 20


def use_engine(model: Any) -> bool:
    """Give a loaded converted model the engine where it can run, and its float output head the native product.

    A forward that somebody replaced before (accelerate, to load weights) stays. Returns whether the engine runs it.
    """
    base = model.base_model
    head = head_module(model)
    if type(head) is nn.Linear and "forward" not in head.__dict__:
        head.forward = HeadForward(head)  # type: ignore[assignment, method-assign]
    if "forward" in base.__dict__ or not (runs_decoder(model) or runs_recurrent(model)):
        return False
    try:
        base.forward = DecoderForward(model) if runs_decoder(model) else RecurrentForward(model)
    except SpikeconvError as error:  # a transformers that calls what it remembers otherwise
        warnings.warn(
            f"The model runs transformers' own layers, not the engine: {error}", SpikeconvWarning, stacklevel=2
        )
        return False
    return True


@contextmanager
def modules_only(model: Any) -> Iterator[None]:
    """While open, every forward of a model runs its modules, the head by torch."""
    held = []
    for module in (model.base_model, head_module(model)):
        if module is not None and isinstance(module.__dict__.get("forward"), EngineForward | HeadForward):
            held.append((module, module.__dict__.pop("forward")))
    try:
        yield
    finally:
        for module, forward in held:
            module.forward = forward


def engine_of(model: Any, positions: int) -> Engine | None:
    """The engine for texts of so many tokens, for who calls it and the head in place of the model.

    None where the model would not run it in inference mode, where it is recurrent, or where somebody watches or
    replaced what is around it.
    """
    forward, head = model.base_model.forward, head_module(model)
    if not isinstance(forward, DecoderForward) or not isinstance(getattr(head, "forward", None), HeadForward):
        return None
    finish_first_forward(model)
    hooks = [hooks for m in (model, head) for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    return None if "forward" in vars(model) or watches(hooks) else forward.engine(positions)


def keeps_floats(model: Any) -> bool:
    """Whether the engine keeps keys and values of a model as floats."""
    return isinstance(model.base_model.forward, DecoderForward) and not attention_codes(model)


def set_cache_dtype(model: Any, dtype: torch.dtype) -> None:
    """Choose in what the engine keeps float keys and values that are computed from now on.

    Args:
        model: loaded, and run by the engine.
        dtype: float32; or bfloat16, half the memory, and on processors with AVX-512 BF16 faster attention: queries and
            weights are then rounded too.

    Raises:
        SpikeconvError: there are none in the engine.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise SpikeconvError(f"Keys and values are kept in float32 or bfloat16, not in {dtype}.")
    if not keeps_floats(model):
        why = obstacle(model)
        raise SpikeconvError(
            f"The engine keeps no float keys and values of this model, so they cannot be kept in {dtype}: "
            + (why.why if why is not None else "they are spike counts, or it does not run here (`spikeconv doctor`)")
            + "."
        )
    model.base_model.forward.cache_dtype = dtype


class DecoderForward(EngineForward):
    """The same of a decoder with keys and values.

    Attributes:
        cache_dtype: in what float keys and values are kept.
    """

    def __init__(self, model: Any) -> None:
        self.cache_dtype = torch.float32
        super().__init__(model)

    def _forget(self) -> None:
        super()._forget()
        self._engine: Engine | None = None
        self._attention: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "cache_dtype": self.cache_dtype}

    def _run(self, ids: Tensor, given: dict[str, Any]) -> BaseModelOutputWithPast | None:
        config, use_cache = self._config, given.get("use_cache")
        cache = next((given[name] for name in KEYWORDS if given.get(name) is not None), None)
        if (cache is None or was_made(cache)) and not torch.is_inference_mode_enabled():
            return None  # a plain call: the bits of the modules, as beside hooks, offloading or gradients
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache:
            cache = DynamicCache(config=config)
        if cache is not None and type(cache) is not DynamicCache:
            self._tell(f"a {type(cache).__name__} is not a cache that the engine can share")
            return None
        past = 0 if cache is None else cache.get_seq_length()
        texts = texts_of(ids, given.get("attention_mask"), given.get("position_ids"), past)
        if texts is None:
            self._tell("a mask or positions other than those of padding on the left")
            return None
        run = run_texts if self._is_unwatched() else run_watched
        if run is run_watched and any(texts.pads):
            return None  # whoever counts, counts padding as what the modules make of it
        engine = self._ready(texts.last_position + 1)
        if engine is None:
            return None
        if cache is None:
            hidden = run(engine, texts, engine.cache(len(ids), texts.end))
        else:
            states = states_of(cache, engine, len(ids))
            if states is None:
                self._tell("a cache whose layers are not those of DynamicCache, or hold other states")
                return None
            states.make_room(texts.end)
            hidden = run(engine, texts, states.held)
            states.length = texts.end
        result: Any = {"last_hidden_state": hidden, self._keyword: cache}
        return BaseModelOutputWithPast(**result)

    def engine(self, positions: int) -> Engine | None:
        """The engine for texts of so many tokens; None where the modules run."""
        return self._ready(positions) if self._is_known() and self._is_unwatched() else None

    def _is_known(self) -> bool:
        if not super()._is_known():
            return False
        if self._attention is None:
            self._attention = attention_of(self.model)
        return bool(self._config._attn_implementation == self._attention)

    def _ready(self, positions: int) -> Engine | None:
        """The engine, with rotary tables for so many positions; None where there is none for the model as it is now."""
        engine = self._engine
        if engine is None or not engine.holds():
            self._engine = engine = None
            if not runs_decoder(self.model):
                return None
        if positions > MOST_POSITIONS:
            return None
        if engine is None or engine.positions < positions:
            self._engine = engine = Engine(self.model, max(1024, 1 << (positions - 1).bit_length()))
        engine.cache_dtype = self.cache_dtype
        return engine


def run_texts(engine: Engine, texts: Texts, cache: StateCache) -> Tensor:
    """What the head reads of some texts, float32 [batch, tokens, hidden]; zeros where there is padding."""
    (batch, count), sequences = texts.ids.shape, _sequences(texts)
    if not any(map(texts.skipped, range(batch))):
        found = engine.forward(texts.ids.reshape(-1), sequences, cache, torch.arange(batch * count), logits=False)
        return found.view(batch, count, -1)
    real = torch.arange(count) >= torch.tensor([count - sequence.tokens for sequence in sequences])[:, None]
    tokens = texts.ids[real]
    hidden = torch.zeros(batch, count, engine.hidden)
    hidden[real] = engine.forward(tokens, sequences, cache, torch.arange(len(tokens)), logits=False)
    return hidden


def run_watched(engine: Engine, texts: Texts, cache: StateCache) -> Tensor:
    """The same of texts without padding, layer by layer, for those who watch: the encoders encode what they would, and
    rows of keys and values are read where they were written."""
    batch, count = texts.ids.shape
    hidden = torch.empty(batch, count, engine.hidden)
    layers = engine.layer_by_layer(texts.ids.reshape(-1), _sequences(texts), cache, hidden.view(-1, engine.hidden))
    encode_watched(engine.groups, READ, layers, hidden.shape[:2])
    for index, code in enumerate(engine.codes):
        code.tell("k", cache.keys[index, :batch, :, texts.past : texts.end])
        code.tell("v", cache.values[index, :batch, :, texts.past : texts.end])
    return hidden


def _sequences(texts: Texts) -> list[Sequence]:
    skipped = [texts.skipped(row) for row in range(len(texts.ids))]
    return [
        Sequence(texts.ids.shape[1] - skip, row, texts.past + skip, texts.pads[row], texts.positions[row])
        for row, skip in enumerate(skipped)
    ]
