"""Perplexity over fixed windows, as quantization papers print it (GPTQ, QuaRot: 2,048 tokens, no overlap).

The text is tokenized once and cut into consecutive windows; the last, partial one is dropped. In each window
every token but the first is predicted:

    perplexity = exp(mean NLL),    bits per byte = sum NLL / ln 2 / bytes of the predicted text
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from spikeconv.data.texts import token_windows
from spikeconv.errors import SpikeconvError
from spikeconv.families import family_of, refuse_encoder
from spikeconv.progress import Track, silent
from spikeconv.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from spikeconv.evaluate.models import LoadedModel

__all__ = ["PerplexityResult", "perplexity"]


@dataclass(frozen=True)
class PerplexityResult:
    """`tokens` is how many were predicted: windows × (window - 1); they are `text_bytes` of the text."""

    perplexity: float
    bits_per_byte: float
    tokens: int
    window: int
    seconds: float
    text_bytes: int
    dtype: str
    device: str

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
    watch: AbstractContextManager[object] = nullcontext(),  # noqa: B008 # stateless
    ranks: Ranks = ALONE,
) -> PerplexityResult:
    """Perplexity of `text`, of which at most the first `max_tokens` tokens are read.

    `watch` is open while the windows run, and sees nothing else: a recorder of spikes, say. `ranks` share the windows,
    and each gets the whole result.

    Raises:
        SpikeconvError: an empty or too short text, a window the model cannot hold, or a model gone to NaN.
    """
    import torch

    from spikeconv.loading import device_of

    refuse_encoder(family_of(loaded.model), "perplexity")
    start = time.perf_counter()
    windows = token_windows(loaded, text, window, max_tokens)
    share = ranks.share(list(windows))
    found: list[tuple[float, int]] = []
    with torch.inference_mode():
        device = device_of(loaded.model)
        split = _splits(loaded.model, windows[:1, :16].to(device))
        with watch:
            for ids in track(share, "perplexity", len(share)):
                nll = _nll(loaded.model, ids[None].to(device), split)
                found.append((nll, _predicted_bytes(loaded.tokenizer, ids.tolist())))
    parts = [each for part in ranks.gather(found) for each in part]  # in the text's order: sums as of one process
    total, text_bytes = sum(nll for nll, _ in parts), sum(length for _, length in parts)
    tokens = len(windows) * (window - 1)
    mean = total / tokens
    if not math.isfinite(mean) or mean > 700:  # exp(700) is where a float ends
        raise SpikeconvError(f"{loaded.name} gives no usable probabilities: its mean loss is {mean}.")
    bits = total / math.log(2)
    seconds = time.perf_counter() - start
    return PerplexityResult(math.exp(mean), bits / text_bytes, tokens, window, seconds, text_bytes, **loaded.compute)


def _splits(model: Any, ids: "torch.Tensor") -> bool:
    """Whether logits are just the output layer of the last hidden state (some families scale or cap them)."""
    import torch

    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    return hidden is not None and torch.allclose(
        head(hidden).float(), model(input_ids=ids, use_cache=False).logits.float(), rtol=1e-3, atol=1e-3
    )


def _nll(model: Any, ids: "torch.Tensor", split: bool) -> float:
    """Negative log-likelihood, in nats, of all tokens of a [1, window] tensor but the first."""
    import torch

    from spikeconv.integrations.head import likelihoods_by, likelihoods_of

    if split:
        read = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        likelihoods = likelihoods_by(model.get_output_embeddings())
    else:
        read, likelihoods = (
            model(input_ids=ids, use_cache=False).logits[0, :-1],
            partial(likelihoods_of, torch.nn.Identity()),
        )
    tokens = ids[0, 1:].to(read.device)
    return -float(likelihoods(read, torch.arange(len(read), device=read.device), tokens)[0].sum())


def _predicted_bytes(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> int:
    """Bytes of the text after the first token (as a difference, because decoders drop a leading space)."""

    def length(part: list[int]) -> int:
        return len(str(tokenizer.decode(part, clean_up_tokenization_spaces=False)).encode())

    return length(ids) - length(ids[:1])
