"""How likely a model finds continuations of contexts: log p = Σᵢ log softmax(logits of token i - 1)[token i].

Texts go as long as they are, one behind the other, and what several have in common goes once (`sharing.py`).
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from typing import NamedTuple

import torch
from torch import Tensor

from spikeconv.engine.model import Engine
from spikeconv.engine.pieces import CHUNK
from spikeconv.engine.sharing import Target, Text, calls_of, groups_of

__all__ = ["Answer", "Likelihoods", "Scored", "score"]

Likelihoods = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of x float32 [R, hidden], which a head reads, rows and tokens int64 [Q]: log p of the tokens in these rows, float64
[Q], and whether each is the most likely one, bool [Q]."""


class Answer(NamedTuple):
    """Of a request: log p of its continuation, and whether each of its tokens is the most likely one."""

    request: int
    log_likelihood: float
    is_greedy: bool


class Scored(NamedTuple):
    """What one call gave: the tokens that it computed, and the requests that it finished."""

    tokens: int
    answers: list[Answer]


def score(
    engine: Engine,
    likelihoods: Likelihoods,
    requests: Items[tuple[list[int], list[int]]],
    longest: int,
    most: int | None = None,
) -> Iterator[Scored]:
    """Score continuations.

    Args:
        engine: with rotary tables for the longest text.
        likelihoods: of what the head reads.
        requests: tokens of context and continuation, at least one of each.
        longest: tokens that the model reads; more are cut off on the left.
        most: texts of a call; None: as many as CHUNK tokens hold.

    Raises:
        ValueError: an empty context or continuation, or a continuation of more than `longest` tokens.
    """
    groups = groups_of(_texts(requests, longest), engine.fewest)
    if not groups:
        return
    lengths = [len(text.tokens) for group in groups for text in group.texts]
    cache = engine.cache(1, min(max(lengths) + CHUNK, sum(lengths)))
    sums, misses = torch.zeros(len(requests), dtype=torch.float64), torch.zeros(len(requests), dtype=torch.int64)
    for call in calls_of(groups, engine.fewest, most):
        places, asked, tokens = (
            torch.tensor([target[:3] for target in call.targets], dtype=torch.int64).view(-1, 3).unbind(1)
        )
        wanted, row = places.unique(return_inverse=True)
        hidden = engine.forward(torch.tensor(call.tokens), call.sequences, cache, wanted, logits=False)
        found, is_best = likelihoods(hidden, row, tokens)
        sums.index_add_(0, asked, found)
        misses.index_add_(0, asked, (~is_best).long())
        done = [target.request for target in call.targets if target.is_last]
        yield Scored(len(call.tokens), [Answer(i, float(sums[i]), not int(misses[i])) for i in done])


def _texts(requests: Items[tuple[list[int], list[int]]], longest: int) -> list[Text]:
    """What the model reads for them: all but the last token; once, where that is the same."""
    texts: dict[tuple[int, ...], Text] = {}
    for request, (context, continuation) in enumerate(requests):
        if not context or not 0 < len(continuation) <= longest:
            raise ValueError(f"request {request}: {len(context)} tokens, continued by {len(continuation)}")
        tokens = tuple((context + continuation)[-longest - 1 : -1])
        text = texts.setdefault(tokens, Text(tokens, []))
        first, last = len(tokens) - len(continuation), len(continuation) - 1
        text.targets.extend(Target(first + i, request, token, i == last) for i, token in enumerate(continuation))
    return list(texts.values())
