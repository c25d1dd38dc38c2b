"""Text generation with a converted model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from spikeconv.data.texts import longest_window
from spikeconv.data.tokens import chat_ids, text_ids
from spikeconv.errors import SpikeconvError, reason_of
from spikeconv.evaluate.models import LoadedModel
from spikeconv.families import family_of, refuse_encoder
from spikeconv.loading import device_of
from spikeconv.quiet import quiet_transformers

__all__ = ["generate_text"]

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
    ids = (chat_ids if chat else text_ids)(model, tokenizer, prompt)
    if not len(ids):
        raise SpikeconvError("The prompt is empty; give one with -p.")
    limit = longest_window(model)
    if limit is not None and len(ids) >= limit:
        raise SpikeconvError(f"The prompt has {len(ids)} tokens; {loaded.name} reads {limit}, new ones included.")
    inputs = ids[None].to(device_of(model))
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.inference_mode(), _plain_settings(loaded):
        tokens = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            **sampling,
            max_new_tokens=max_new_tokens if limit is None else min(max_new_tokens, limit - len(ids)),
            streamer=TextStreamer(tokenizer, skip_special_tokens=True) if stream else None,
        )[0, len(ids) :]
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


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
