"""Perplexity over fixed windows, as the quantization papers print it (GPTQ, QuaRot: 2,048 tokens, no overlap).

The text is tokenized once and cut into consecutive windows; the last, partial one is dropped. In each window every
token but the first is predicted:

    perplexity = exp(mean NLL),    bits per byte = sum NLL / ln 2 / bytes of the predicted text
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spikeconv.errors import SpikeconvError
from spikeconv.progress import Track, silent

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeconv.evaluate.models import LoadedModel

__all__ = ["PerplexityResult", "perplexity"]

CHUNK = 256
"""Positions whose logits are held at once: 50 MB for a vocabulary of 49,152, where a whole window takes 400 MB."""


@dataclass(frozen=True)
class PerplexityResult:
    """`tokens` is how many were predicted: windows × (window - 1)."""

    perplexity: float
    bits_per_byte: float
    tokens: int
    window: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def perplexity(
    loaded: "LoadedModel",
    text: str,
    *,
    window: int = 2048,
    max_tokens: int | None = None,
    track: Track = silent,
) -> PerplexityResult:
    """Perplexity of `text`, of which at most the first `max_tokens` tokens are read.

    Raises:
        SpikeconvError: an empty or too short text, a window the model cannot hold, or a model that yields no numbers.
    """
    import torch

    start = time.perf_counter()
    windows = _windows(loaded, text, window, max_tokens)
    total, text_bytes = 0.0, 0
    with torch.inference_mode():
        split = _splits(loaded.model, windows[:1, :16].to(loaded.model.device))
        for ids in track(windows, "Perplexity", len(windows)):
            total += _nll(loaded.model, ids[None].to(loaded.model.device), split)
            text_bytes += _predicted_bytes(loaded.tokenizer, ids.tolist())
    tokens = len(windows) * (window - 1)
    mean = total / tokens
    if not math.isfinite(mean) or mean > 700:  # exp(700) is where a float ends
        raise SpikeconvError(f"{loaded.name} gives no usable probabilities: its mean loss is {mean}.")
    bits = total / math.log(2)
    return PerplexityResult(math.exp(mean), bits / text_bytes, tokens, window, time.perf_counter() - start)


def _windows(loaded: "LoadedModel", text: str, window: int, max_tokens: int | None) -> "torch.Tensor":
    """Token ids, [windows, window]."""
    import torch

    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if window < 2 or (limit is not None and window > limit):
        raise SpikeconvError(
            f"--window must be 2 to {limit or 'any number'} tokens for {loaded.name}, not {window}."
        )
    if not text.strip():
        raise SpikeconvError("The text is empty; perplexity needs at least one window of tokens.")
    ids = loaded.tokenizer(text, verbose=False)["input_ids"][
        :max_tokens
    ]  # verbose: warns that the text is long
    count = len(ids) // window
    if count == 0:
        raise SpikeconvError(
            f"The text has {len(ids)} tokens, fewer than one window of {window}; give --window {max(len(ids), 2)} or less"
            + (", or a larger --max-tokens." if max_tokens is not None and len(ids) == max_tokens else ".")
        )
    return torch.tensor(ids[: count * window]).view(count, window)


def _splits(model: "PreTrainedModel", ids: "torch.Tensor") -> bool:
    """Whether logits are just the output layer of the body's last hidden state (some families scale or cap them)."""
    import torch

    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    return hidden is not None and torch.allclose(
        head(hidden).float(), model(input_ids=ids, use_cache=False).logits.float(), rtol=1e-3, atol=1e-3
    )


def _nll(model: "PreTrainedModel", ids: "torch.Tensor", split: bool) -> float:
    """Negative log-likelihood, in nats, of all tokens of a [1, window] tensor but the first."""
    from torch.nn.functional import cross_entropy

    def logits() -> "Iterator[torch.Tensor]":
        if not split:
            yield from model(input_ids=ids, use_cache=False).logits[0].split(CHUNK)
            return
        head = model.get_output_embeddings()
        for hidden in model.base_model(input_ids=ids, use_cache=False).last_hidden_state.split(CHUNK, dim=1):
            yield head(hidden)[0]

    targets = ids[0, 1:].split(
        CHUNK
    )  # zip stops before the last position, or cuts it off: nothing follows it
    return sum(
        float(cross_entropy(chunk[: len(target)].float(), target, reduction="sum"))
        for chunk, target in zip(logits(), targets, strict=False)
    )


def _predicted_bytes(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> int:
    """Bytes of the text after the first token (as a difference, because decoders drop a leading space)."""

    def length(part: list[int]) -> int:
        return len(str(tokenizer.decode(part, clean_up_tokenization_spaces=False)).encode())

    return length(ids) - length(ids[:1])
