"""`Did you mean …?`, wherever a name is not known."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]


def nearest(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most like a word, the best first; those whose last part after a dot it is come before others."""
    names = list(known)
    ends = [name for name in names if "." in name and name.rsplit(".", 1)[-1] == word]
    return list(dict.fromkeys([*ends, *difflib.get_close_matches(word, names, n=count, cutoff=cutoff)]))[:count]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean X?` with the known name most like a word; empty where none is like it."""
    near = nearest(str(word), known, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""
