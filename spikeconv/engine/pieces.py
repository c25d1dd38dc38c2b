"""A forward in pieces of a bounded number of tokens, however long its texts are."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["CHUNK", "NOTHING", "Piecewise", "by_layer", "in_pieces"]

CHUNK = 512
"""Tokens of one native call: a longer text goes in pieces, between which Ctrl-C is heard."""

NOTHING = torch.empty(0)


class Piecewise(Protocol):
    """More tokens of one sequence: a tuple of whole numbers, of which the first is how many they are."""

    @property
    def tokens(self) -> int:
        """How many."""

    def piece(self, done: int, count: int) -> Any:
        """`count` of its tokens behind the first `done`."""

    def __iter__(self) -> Iterator[int]:
        """The numbers."""


def in_pieces(
    run: Callable[[Tensor, Tensor, Tensor], Tensor], tokens: Tensor, sequences: Iterable[Piecewise], wanted: Tensor
) -> Tensor:
    """The results of a run over each piece, one behind the other.

    Args:
        run: what it gives of some tokens, int64 [T], of sequences, int64 [S, numbers], in the rows that are wanted.
        tokens: int64 [T], of all sequences.
        sequences: of at least one token each.
        wanted: int64 [R], rows of `tokens`, ascending.
    """
    results = []
    for begin, pieces in _chunks(sequences):
        rows, count = _rows_of(pieces)
        last = begin + count
        low, high = (0, len(wanted)) if count == len(tokens) else _span(wanted, begin, last)
        results.append(run(tokens[begin:last], rows, wanted[low:high] - begin))
    return results[0] if len(results) == 1 else torch.cat(results)


def by_layer(
    run: Callable[[Tensor, Tensor, tuple[int, int], Tensor, Tensor], Tensor],
    sequences: Iterable[Piecewise],
    layers: int,
    widths: dict[str, int],
    out: Tensor | None,
) -> Iterator[dict[str, Tensor]]:
    """A run layer by layer, with what is computed on the way, by name float32 [T, width]; the next layer overwrites it.

    Args:
        run: what it gives of sequences, int64 [S, numbers], in the rows that are wanted, behind layers [first, last),
            which go on with a stream, float32 [T, hidden], and note in a trace, float32 [T, all widths].
        sequences: of at least one token each; not cut into pieces.
        layers: of the model.
        widths: of what is noted, in its order; `input` is as wide as the stream.
        out: float32 [T, hidden], filled with what the last layer gives; None: nobody asks.
    """
    rows, count = _rows_of(sequences)
    stream, trace = torch.empty(count, widths["input"]), torch.empty(count, sum(widths.values()))
    named = dict(zip(widths, trace.split(list(widths.values()), -1), strict=True))
    wanted = torch.arange(0 if out is None else count)
    for layer in range(layers):
        is_last = layer == layers - 1
        read = run(rows, wanted if is_last else wanted[:0], (layer, layer + 1), stream, trace)
        if is_last and out is not None:
            out.copy_(read)
        yield named


def _rows_of(sequences: Iterable[Piecewise]) -> tuple[Tensor, int]:
    """Sequences one behind the other as native calls take them, int64 [S, 1 + numbers], and their tokens."""
    rows, count = [], 0
    for sequence in sequences:
        rows.append((count, *sequence))
        count += sequence.tokens
    return torch.tensor(rows), count


def _chunks(sequences: Iterable[Piecewise]) -> Iterator[tuple[int, list[Piecewise]]]:
    """The same in pieces of at most CHUNK tokens, with the first token of each."""
    begin, held, pieces = 0, 0, []
    for sequence in sequences:
        done = 0
        while done < sequence.tokens:
            count = min(sequence.tokens - done, CHUNK - held)
            pieces.append(sequence.piece(done, count))
            done, held = done + count, held + count
            if held == CHUNK:
                yield begin, pieces
                begin, held, pieces = begin + held, 0, []
    if pieces:
        yield begin, pieces


def _span(ascending: Tensor, begin: int, end: int) -> tuple[int, int]:
    low, high = torch.searchsorted(ascending, torch.tensor([begin, end])).tolist()
    return low, high
