"""Text generation with a converted model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, TextStreamer

from spikeconv.data.texts import longest_window
from spikeconv.data.tokens import chat_ids, text_ids
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.evaluate.models import LoadedModel
from spikeconv.families import family_of, refuse_encoder
from spikeconv.integrations.memory import KEYWORDS, memory_keyword
from spikeconv.loading import device_of
from spikeconv.quiet import quiet_transformers

__all__ = ["Sampling", "generate_text", "new_tokens", "room_behind"]

KEPT = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What counts of a checkpoint's `generation_config.json`: which tokens are likely, not beams, caches or lengths."""


class Sampling(NamedTuple):
    """How the next token is chosen, and how many at most; a temperature of 0 takes the likeliest."""

    temperature: float = 0.0
    max_new_tokens: int = 50

    @property
    def options(self) -> dict[str, Any]:
        """For `generate`."""
        if not self.temperature:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature}


def generate_text(
    loaded: LoadedModel,
    prompt: str,
    *,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    stream: bool = False,
) -> tuple[str, int]:
    """Continue a prompt.

    Args:
        loaded: the model.
        prompt: text to continue; must not be empty.
        max_new_tokens: tokens to add at most; the model's context may end before.
        temperature: 0 takes the likeliest token.
        seed: seed of the sampling.
        chat: wrap the prompt in the tokenizer's chat template.
        stream: print the text to stdout as it comes, the prompt first.

    Returns:
        The added text and how many tokens it has.

    Raises:
        SpikeconvError: the prompt is empty or fills the model's context, or tokenizer, chat template or generation
            settings are unusable.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    refuse_encoder(family_of(model), "text to go on with")
    if chat:
        ids = chat_ids(model, tokenizer, [{"role": "user", "content": prompt}], "leave --chat out")
    else:
        ids = text_ids(model, tokenizer, prompt)
    if not len(ids):
        raise SpikeconvError("The prompt is empty; give one with -p.")
    if room_behind(loaded, ids) <= 0:
        raise SpikeconvError(
            f"The prompt has {len(ids)} tokens; {loaded.name} reads {longest_window(model)}, new ones included."
        )
    torch.manual_seed(seed)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True) if stream else None
    tokens, _ = new_tokens(loaded, ids, Sampling(temperature, max_new_tokens), streamer)
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


def room_behind(loaded: LoadedModel, ids: Tensor) -> float:
    """How many tokens the model's context has behind these; not above 0 where they fill it."""
    return (longest_window(loaded.model) or math.inf) - len(ids)


def new_tokens(
    loaded: LoadedModel, ids: Tensor, sampling: Sampling, streamer: Any = None, memory: Any = None
) -> tuple[Tensor, Any]:
    """What a model adds to some tokens.

    Args:
        loaded: the model.
        ids: int64 [tokens], at least one, that leave room in the model's context.
        sampling: how tokens are chosen.
        streamer: told of every token, as transformers does.
        memory: what the model remembers of a beginning of them (a cache); None: it reads all.

    Returns:
        int64 [new tokens], and what the model remembers of all but the last.

    Raises:
        SpikeconvError: the checkpoint's generation settings are unusable.
    """
    model, inputs = loaded.model, ids[None].to(device_of(loaded.model))
    remembered = {} if memory is None else {memory_keyword(model): memory}
    with torch.inference_mode(), _plain_settings(loaded):
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            **sampling.options,
            **remembered,
            max_new_tokens=int(min(sampling.max_new_tokens, room_behind(loaded, ids))),
            streamer=streamer,
            return_dict_in_generate=True,
        )
    return output.sequences[0, len(ids) :], next((output[name] for name in KEYWORDS if name in output), None)


@contextmanager
def _plain_settings(loaded: LoadedModel) -> Iterator[None]:
    """One text at a time and a growing cache, whatever the checkpoint's `generation_config.json` asks for."""
    model, theirs = loaded.model, loaded.model.generation_config
    size = model.config.get_text_config().vocab_size
    ends = _ids(theirs.eos_token_id, size) or _ids(loaded.tokenizer.eos_token_id, size)
    pad = (_ids(loaded.tokenizer.pad_token_id, size) or ends or [0])[0]
    kept = {name: value for name in KEPT if (value := getattr(theirs, name, None)) is not None}
    try:
        with quiet_transformers():  # about settings that have no effect
            model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad, **kept)
            yield
    except (TypeError, ValueError) as error:
        raise SpikeconvError(
            f"{loaded.path} cannot generate with its generation_config.json: {reason_of(error)}"
        ) from error
    finally:
        model.generation_config = theirs


def _ids(value: Any, size: int) -> list[int]:
    """The tokens that a setting names and the model has: a number, a list of them, or something odd."""
    values = value if isinstance(value, list | tuple) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < size]
