"""Whether a conversion can be done here, and what it will take: all that is known before it is begun."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spikeconv.checkpoint.format import RECORD
from spikeconv.checkpoint.scratch import check_target
from spikeconv.conversion.demand import check_memory
from spikeconv.conversion.estimate import Estimate, estimate
from spikeconv.conversion.plan import Plan
from spikeconv.conversion.writing import Writing
from spikeconv.errors import SpikeconvError
from spikeconv.sources.base import Source

__all__ = ["Foreseen", "OutputPlace", "foresee"]


@dataclass(frozen=True)
class OutputPlace:
    """Where the checkpoint would be written.

    Attributes:
        path: the folder.
        free_bytes: on its file system.
        problem: why it cannot be written there, in a sentence, or None.
    """

    path: str
    free_bytes: int
    problem: str | None


@dataclass(frozen=True)
class Foreseen:
    """What is known of a conversion before it is begun."""

    estimate: Estimate
    output: OutputPlace

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"estimate": self.estimate.to_dict(), "output": asdict(self.output)}

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            SpikeconvError: the output cannot be written.
        """
        if self.output.problem is not None:
            raise SpikeconvError(self.output.problem)


def foresee(
    source: Source, plan: Plan, dtype: torch.dtype | None, writing: Writing, target: Path, *, searches: bool = False
) -> Foreseen:
    """Look ahead at a conversion; nothing is written.

    Args:
        source: what was planned; it is not read.
        plan: what to convert and how.
        dtype: dtype of what stays float; None: as in the source.
        writing: how it would be written.
        target: the checkpoint to create.
        searches: whether encoders will be searched on a text.
    """
    found = estimate(source, plan, dtype, writing, target.parent, searches)
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    try:
        check_target(target, writing.force, RECORD)
        problem = None
        if free < found.output_bytes:
            problem = f"{target} would have {found.output_bytes:,} bytes, but only {free:,} are free there."
        elif writing.max_memory is not None:
            check_memory(source, plan, dtype, writing.max_memory)
    except SpikeconvError as error:
        problem = str(error)
    return Foreseen(found, OutputPlace(str(target), free, problem))
