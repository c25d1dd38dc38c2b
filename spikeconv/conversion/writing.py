"""How a conversion is carried out and written; nothing here changes a byte of the result but `shard_bytes`."""

import os
from dataclasses import dataclass

from spikeconv.sizes import DEFAULT_SHARD_SIZE, parse_size

__all__ = ["Writing", "default_jobs"]


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is written.

    Attributes:
        shard_bytes: largest shard, in bytes of tensors.
        jobs: threads that convert.
        max_memory: bytes that the process may have; None: no limit.
        force: replace an existing converted checkpoint.
        restart: begin anew where a conversion was stopped.
    """

    shard_bytes: int = parse_size(DEFAULT_SHARD_SIZE, "--max-shard-size")
    jobs: int = 1
    max_memory: int | None = None
    force: bool = False
    restart: bool = False


def default_jobs() -> int:
    """A thread for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
