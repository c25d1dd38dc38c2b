"""A batch of texts as transformers gives it, padding included, as the engine reads it: as long as each text is."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Texts", "texts_of"]


class Texts(NamedTuple):
    """More tokens of some texts.

    Attributes:
        ids: int64 [batch, tokens].
        pads: of each text, how many places at the left of all that there is are no tokens.
        positions: of each text, the position of its first token in `ids` that is one.
        past: places of the cache that are taken.
    """

    ids: Tensor
    pads: list[int]
    positions: list[int]
    past: int

    @property
    def end(self) -> int:
        """Places of the cache that are taken with them."""
        return self.past + self.ids.shape[1]

    @property
    def last_position(self) -> int:
        """The highest position."""
        return max(
            position + self.end - max(pad, self.past) - 1
            for pad, position in zip(self.pads, self.positions, strict=True)
        )

    def skipped(self, row: int) -> int:
        """Places of a row of `ids` that are padding."""
        return max(self.pads[row] - self.past, 0)


def texts_of(ids: Tensor, mask: Any, positions: Any, past: int) -> Texts | None:
    """The texts of a forward's arguments; None where they are not what follows padding on the left, if anything.

    Args:
        ids: int64 [batch, tokens], `tokens` above 0.
        mask: [batch, past + tokens], true or 1 for tokens; None: all are.
        positions: int64 [1 or batch, tokens]; None: places in the cache.
        past: places of the cache that are taken.
    """
    batch, count = ids.shape
    pads = [0] * batch
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != (batch, past + count):
            return None
        real = mask.bool()
        if not bool(real.all()):
            if not bool(real[:, -1].all()) or bool((real[:, :-1] & ~real[:, 1:]).any()):
                return None
            pads = (past + count - real.sum(-1)).tolist()
    firsts = [past + max(pad - past, 0) for pad in pads]
    if positions is not None:
        if not isinstance(positions, Tensor) or positions.shape[-1] != count or positions.dim() != 2:
            return None
        rows = positions.expand(batch, count)
        if count == 1:  # a token more of each text, wherever it is
            return Texts(ids, pads, rows[:, 0].tolist(), past)
        starts = torch.tensor(firsts) - past
        wanted = rows.gather(1, starts[:, None]) + torch.arange(count) - starts[:, None]
        inside = torch.arange(count) >= starts[:, None]
        if not torch.equal(wanted * inside, rows * inside):
            return None
        firsts = rows.gather(1, starts[:, None])[:, 0].tolist()
    return Texts(ids, pads, firsts, past)
