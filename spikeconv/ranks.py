"""Processes that share one measurement, as `accelerate launch` and `torchrun` start them: each does a share of it.

Every one holds the whole model and knows all results in the end, so that what follows from them is computed as in one
process. Results are plain values and go over gloo, whatever the model computes on.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from spikeconv.errors import SpikeconvError, reason_of

__all__ = ["ALONE", "RankError", "Ranks", "current", "is_one_of_several", "joined"]

T = TypeVar("T")

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher says to the processes that it starts."""
LONGEST = timedelta(days=14)
"""A share may take long, and whoever dies is noticed by his closed connection, not by the time."""
COMING = timedelta(minutes=10)
"""How long those who are there wait for the others at the start."""
FAILED = "failed"


class RankError(SpikeconvError):
    """Another of the processes ended, with its reason."""


class Ranks:
    """The processes, as one of them sees them.

    Attributes:
        rank: its number, from 0.
        count: of all.
        local: its number on its host.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0, store: Any = None) -> None:
        self.rank, self.count, self.local = rank, count, local
        self._store = store

    @property
    def is_first(self) -> bool:
        """Whether it is the one that prints and writes."""
        return self.rank == 0

    def bounds(self, items: int) -> tuple[int, int]:
        """Where this one's share of so many items begins and ends: shares follow each other in order."""
        return self.rank * items // self.count, (self.rank + 1) * items // self.count

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This one's share."""
        begin, end = self.bounds(len(items))
        return items[begin:end]

    def gather(self, value: T) -> list[T]:
        """What each of them gives, by rank; all wait for all.

        Raises:
            RankError: one of them ended.
        """
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:  # gloo has no error of its own
            raise self.lost() from error
        return values

    def agree(self, **values: Any) -> None:
        """Check that all would do the same.

        Raises:
            SpikeconvError: one would not; it names the difference.
        """
        first, *others = self.gather(values)
        for rank, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    raise SpikeconvError(f"{name} is {value} for rank 0 and {other[name]} for rank {rank}.")

    def device(self, name: str) -> str:
        """The device of this process, where it is not said which: the GPU of its number on its host."""
        if self.count == 1 or name not in ("auto", "cuda"):
            return name
        import torch

        if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes") and name == "auto":
            return "cpu"
        return f"cuda:{self.local % torch.cuda.device_count()}" if torch.cuda.is_available() else name

    def tell(self, error: Exception) -> None:
        """Tell the others why this one ends, unless another one did so before."""
        with suppress(RuntimeError, OSError):  # nobody is left to be told
            self._store.compare_set(FAILED, "", f"{self.rank} {_reason(error)}")

    def lost(self) -> RankError:
        """What to say when another one ended."""
        told = self._told()
        if told is None:
            return RankError("Another rank ended without a word; it was killed, perhaps for lack of memory.")
        return RankError(f"Rank {told[0]} ended: {told[1]}")

    def is_told_otherwise(self, error: BaseException) -> bool:
        """Whether another one ended first, for another reason."""
        told = self._told()
        return told is not None and told[0] != self.rank and told[1] != _reason(error)

    def _told(self) -> tuple[int, str] | None:
        try:
            if not self._store.check([FAILED]):
                return None
            rank, _, reason = self._store.get(FAILED).decode().partition(" ")
        except (RuntimeError, OSError):
            return None
        return int(rank), reason


def _reason(error: BaseException) -> str:
    return reason_of(error) if isinstance(error, Exception) and not isinstance(error, SpikeconvError) else str(error)


ALONE = Ranks()
_current = [ALONE]


def current() -> Ranks:
    """The processes that this one has joined; alone by default."""
    return _current[-1]


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several."""
    return all(name in environment for name in NAMES) and environment["WORLD_SIZE"] != "1"


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that a launcher started with this one, if one did; who fails tells the others.

    Raises:
        RankError: another one ended.
        SpikeconvError: they do not come together.
    """
    if not is_one_of_several():
        yield ALONE
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, count = next(iter(rendezvous("env://", timeout=COMING)))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(count)], COMING)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=LONGEST)
    except (RuntimeError, ValueError, OSError) as error:
        raise SpikeconvError(f"The processes of the launcher do not come together: {reason_of(error)}") from error
    ranks = Ranks(rank, count, int(os.environ["LOCAL_RANK"]), PrefixStore("spikeconv", store))
    _current.append(ranks)
    try:
        yield ranks
        ranks.gather(None)  # nobody leaves while another could fail
    except RankError:
        raise
    except KeyboardInterrupt as stop:  # a launcher sends SIGTERM to all when one has failed
        if ranks.is_told_otherwise(stop):
            raise ranks.lost() from None
        raise type(stop)(str(stop) or "all ranks were ended, by the user or since one of them died") from None
    except Exception as error:
        ranks.tell(error)
        if ranks.is_told_otherwise(error):
            raise ranks.lost() from error
        raise
    finally:
        _current.pop()
        dist.destroy_process_group()
