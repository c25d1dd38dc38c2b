"""A conversation with a converted model: what was said, and what the model remembers of it."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from spikeconv.data.tokens import chat_ids
from spikeconv.errors import SpikeconvError
from spikeconv.evaluate.generate import Sampling, new_tokens, room_behind
from spikeconv.evaluate.models import LoadedModel
from spikeconv.families import family_of, refuse_encoder
from spikeconv.integrations.engine_cache import cut_off

__all__ = ["Answer", "Conversation"]

INSTEAD = "`spikeconv generate -p TEXT` continues a text without one"


class Answer(NamedTuple):
    """What a model answered.

    Attributes:
        text: of the answer.
        tokens: how many it has.
        read: tokens that the model read before, without those that it remembered.
        forgotten: messages that were dropped, the oldest first, so that the rest fits into its context.
        seconds: reading included.
    """

    text: str
    tokens: int
    read: int
    forgotten: int
    seconds: float


class Conversation:
    """Messages in the tokenizer's chat template, and a cache of those that the model has read.

    Args:
        loaded: a decoder with its tokenizer.
        sampling: how its tokens are chosen.
        system: a message in front of all others, which is never dropped.
        seed: of the sampling.

    Attributes:
        messages: `role` and `content` of all that the model still sees.

    Raises:
        SpikeconvError: there is no chat template that works, or the model writes no text.
    """

    def __init__(self, loaded: LoadedModel, sampling: Sampling, system: str | None = None, seed: int = 0) -> None:
        refuse_encoder(family_of(loaded.model), "text to go on with")
        self._loaded, self._sampling = loaded, sampling
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, str]] = []
        self.clear()
        self._ids([*self.messages, {"role": "user", "content": "?"}])
        torch.manual_seed(seed)

    def clear(self) -> None:
        """Begin again."""
        self.messages = list(self._first)
        self._memory: DynamicCache | None = None
        self._read = torch.zeros(0, dtype=torch.int64)

    def say(self, text: str, streamer: Any = None) -> Answer:
        """Say something and wait for the answer; both are remembered. Interrupted, neither is.

        Args:
            text: the message.
            streamer: told of every token of the answer, as transformers does.

        Raises:
            SpikeconvError: it is empty or alone longer than the model's context, or the template fails.
        """
        if not text.strip():
            raise SpikeconvError("The message is empty.")
        start = time.perf_counter()
        messages = [*self.messages, {"role": "user", "content": text}]
        ids, forgotten = self._ids(messages), 0
        while room_behind(self._loaded, ids) <= 0:
            begin = len(self._first)
            if len(messages) - begin < 3:
                raise SpikeconvError(f"The message has {len(ids)} tokens, which leaves the model no room to answer.")
            del messages[begin : begin + 2]
            ids, forgotten = self._ids(messages), forgotten + 2
        memory, known = self._remembered(ids)
        tokens, memory = new_tokens(self._loaded, ids, self._sampling, streamer, memory)
        answer = self._loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        if isinstance(memory, DynamicCache):
            self._memory, self._read = memory, torch.cat((ids, tokens.cpu()))[: memory.get_seq_length()]
        return Answer(answer, len(tokens), len(ids) - known, forgotten, time.perf_counter() - start)

    def _ids(self, messages: list[dict[str, str]]) -> Tensor:
        ids = chat_ids(self._loaded.model, self._loaded.tokenizer, messages, INSTEAD)
        if not len(ids):
            raise SpikeconvError(f"The chat template gives no tokens; {INSTEAD}.")
        return ids

    def _remembered(self, ids: Tensor) -> tuple[DynamicCache | None, int]:
        """The cache of what these begin with, cut off where they go on otherwise, and of how many tokens it is.

        An interrupted forward leaves the cache half-written, so it is given away. A recurrent model's state cannot be
        cut off: it reads all again.
        """
        memory, read, self._memory = self._memory, self._read, None
        if memory is None:
            return None, 0
        most = min(len(read), len(ids) - 1)  # one at least is read
        differ = (read[:most] != ids[:most]).nonzero()
        known = int(differ[0]) if len(differ) else most
        if known == 0:
            return None, 0
        return (memory, known) if cut_off(memory, known) else (None, 0)
