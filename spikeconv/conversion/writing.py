"""How a conversion is carried out and written; of the result nothing here changes more than `shard_bytes` cuts."""

import os
from dataclasses import dataclass

import torch

from spikeconv.checkpoint.shard import Shard
from spikeconv.sizes import DEFAULT_SHARD_SIZE, parse_size

__all__ = ["CPU", "Writing", "default_jobs"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is written.

    Attributes:
        shard_bytes: largest shard, in bytes of tensors.
        jobs: threads that convert.
        device: that rotates and rounds. Where a range is searched, one of another kind may find another in a tie.
        max_memory: bytes that the process may have; None: no limit.
        force: replace an existing converted checkpoint.
        restart: begin anew where a conversion was stopped.
        shard: which of several processes this is that write the same checkpoint; None: it does so alone.
    """

    shard_bytes: int = parse_size(DEFAULT_SHARD_SIZE, "--max-shard-size")
    jobs: int = 1
    device: torch.device = CPU
    max_memory: int | None = None
    force: bool = False
    restart: bool = False
    shard: Shard | None = None


def default_jobs() -> int:
    """A thread for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
