"""Texts that begin alike, as calls of the engine in which what they share is computed once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import NamedTuple

from spikeconv.engine.model import Sequence
from spikeconv.engine.pieces import CHUNK

__all__ = ["Call", "Group", "Target", "Text", "calls_of", "groups_of"]


class Target(NamedTuple):
    """One token of a continuation.

    Attributes:
        place: of the token in front of it, whose logits foretell it.
        request: whose continuation.
        token: its id.
        is_last: of the continuation.
    """

    place: int
    request: int
    token: int
    is_last: bool


class Text(NamedTuple):
    """What the model reads for some requests."""

    tokens: tuple[int, ...]
    targets: list[Target]


class Group(NamedTuple):
    """Texts with the same first `shared` tokens."""

    shared: int
    texts: list[Text]


@dataclass
class Call:
    """Tokens for one forward of the engine, in one slot of a cache.

    Attributes:
        row: of the slot, the next that is free.
        texts: that end here.
        tokens, sequences: for the engine.
        targets: with places among the tokens of the call.
    """

    row: int = 0
    texts: int = 0
    tokens: list[int] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def add(self, tokens: tuple[int, ...], sequence: Sequence, targets: list[Target]) -> None:
        """Some more tokens of a text; targets have places in the text."""
        begin = len(self.tokens) - sequence.position
        self.targets += [target._replace(place=begin + target.place) for target in targets]
        if tokens:
            self.tokens += tokens
            self.sequences.append(sequence)
            self.row += len(tokens)


def groups_of(texts: list[Text], fewest: int) -> list[Group]:
    """Texts in groups that save the most tokens; `fewest` at least are shared.

    Sorted, neighbours have the longest common beginnings. Groups of one are put together along these, from the longest
    down, wherever what is saved, (texts - 1) · shared, does not get less.
    """
    texts = sorted(texts, key=lambda text: text.tokens)
    common = [0] + [_common(one.tokens, other.tokens) for one, other in pairwise(texts)]
    end, begin = {i: i + 1 for i in range(len(texts))}, {i + 1: i for i in range(len(texts))}
    shared = dict.fromkeys(end, 0)
    for middle in sorted(range(1, len(texts)), key=lambda i: -common[i]):
        if common[middle] < fewest:
            break
        first, last = begin[middle], end[middle]
        apart = (middle - first - 1) * shared[first] + (last - middle - 1) * shared[middle]
        if (last - first - 1) * common[middle] >= apart:
            end[first], begin[last], shared[first] = last, first, common[middle]
            del end[middle], begin[middle], shared[middle]
    return [Group(shared[first], texts[first : end[first]]) for first in sorted(end)]


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def calls_of(groups: list[Group], fewest: int, most: int | None = None) -> Iterator[Call]:
    """Groups as calls of about CHUNK tokens, and of at most so many texts.

    A group that does not fit into one call goes on in the next, which finds what its texts share in the cache: at its
    first rows, for such a group begins a call. So a cache needs room for the longest text and CHUNK more tokens. A text
    that has less than `fewest` tokens behind what is shared computes some of that again, to the bits of a text alone.
    """
    call = Call()
    for shared, texts in groups:
        forks = [min(shared, max(len(tokens) - fewest, 0)) if len(tokens) > shared else shared for tokens, _ in texts]
        size = shared + sum(len(text.tokens) - fork for text, fork in zip(texts, forks, strict=True))
        if call.texts and _is_full(call, size, len(texts), most):
            yield call
            call = Call()
        first = call.row
        targets = [target for text in texts for target in text.targets if target.place < shared]
        call.add(texts[0].tokens[:shared], Sequence(shared, at=first, first=first), targets)
        end = call.row
        for text, fork in zip(texts, forks, strict=True):
            own, at = text.tokens[fork:], first + fork
            if call.tokens and _is_full(call, len(own), 1, most):
                yield call
                call = Call(row=end)
            sequence = Sequence(len(own), at=at, first=first, position=fork, fork=at, gap=call.row - at)
            call.add(own, sequence, [target for target in text.targets if target.place >= shared])
            call.texts += 1
    if call.tokens:
        yield call


def _is_full(call: Call, tokens: int, texts: int, most: int | None) -> bool:
    return len(call.tokens) + tokens > CHUNK or (most is not None and call.texts + texts > most)
