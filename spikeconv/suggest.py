"""Names that are not known, and `Did you mean …?`; patterns of names."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from spikeconv.errors import SpikeconvError

__all__ = ["did_you_mean", "matching", "nearest", "no_such_linear"]


def nearest(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most like a word, the best first; those whose last part after a dot it is come before others."""
    names = list(known)
    ends = [name for name in names if "." in name and name.rsplit(".", 1)[-1] == word]
    return list(dict.fromkeys([*ends, *difflib.get_close_matches(word, names, n=count, cutoff=cutoff)]))[:count]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean X?` with the known name most like a word; empty where none is like it."""
    near = nearest(str(word), known, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def no_such_linear(
    given: str, pattern: str, where: str, roles: Iterable[str], names: Sequence[str] = ()
) -> SpikeconvError:
    """The error of a pattern, given somehow, that means no linear of what is `where`."""
    known = list(dict.fromkeys(roles))
    hint = did_you_mean(pattern, known) or did_you_mean(pattern, names)
    whole = f"; a pattern is matched with whole names, as {names[0]}" if names else ""
    return SpikeconvError(f"{given} matches no linear of {where}.{hint} Roles: {', '.join(known)}{whole}.")


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names of linears (or neurons) that some names or shell patterns mean, in their order.

    Raises:
        SpikeconvError: a pattern means none of them.
    """
    known, wanted = list(names), list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise SpikeconvError(f"No converted linear is called {pattern}, as one is {known[0] if known else 'none'}.")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in wanted)]
