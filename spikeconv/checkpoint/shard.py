"""Which part of a conversion a process is, among several that share it: `--shard I/N`."""

import re
from dataclasses import dataclass

from spikeconv.errors import SpikeconvError

__all__ = ["MOST_SHARDS", "Shard"]

MOST_SHARDS = 4096


@dataclass(frozen=True)
class Shard:
    """The place of a process among those that share a conversion: where it begins, and what it is called.

    Attributes:
        index: its number, from 1.
        count: how many there are meant to be; the work does not depend on whether all of them come.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `I/N`.

        Raises:
            SpikeconvError: it is something else, or I or N is out of range.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise SpikeconvError(f"--shard is {text[:40]!r}; expected I/N, as in 1/3 for the first of three.")
        index, count = int(match[1]), int(match[2])
        if not 1 <= count <= MOST_SHARDS:
            raise SpikeconvError(f"--shard {index}/{count}: N must be from 1 to {MOST_SHARDS:,}.")
        if not 1 <= index <= count:
            raise SpikeconvError(f"--shard {index}/{count}: I must be from 1 to {count}.")
        return cls(index, count)

    def order(self, units: list[str]) -> list[str]:
        """Units as this process goes through them: each begins at another place, and all go round."""
        first = (self.index - 1) * len(units) // self.count
        return units[first:] + units[:first]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
