"""One measurement on a converted checkpoint and, if asked, on the float model it came from."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from spikeconv.evaluate.models import LoadedModel
    from spikeconv.placing import Placing

__all__ = ["Comparison", "compare"]

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison(Generic[T]):
    """What was measured on the spiking model and, if asked for, on its `source`."""

    spiking: T
    baseline: T | None
    source: Path | None = None


def compare(
    measure: "Callable[[LoadedModel], T]",
    checkpoint: Path,
    *,
    baseline: bool = False,
    source: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    placing: "Placing | None" = None,
    on_loss: Callable[[T], None] = lambda baseline: None,
    **spiking: Any,
) -> Comparison[T]:
    """Measure the source first, then the checkpoint; only one of the two models is in memory at a time.

    `source` names the float model, as for a conversion; else the record does, if that can be believed (`source_path`).
    `placing` spreads either of them. `on_loss` is told of the source's measurement if that of the checkpoint fails.
    `spiking` is what else `load_checkpoint` takes.
    """
    from spikeconv.evaluate.models import load_checkpoint, load_source
    from spikeconv.sources.resolve import resolve_source

    options: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    options["placing"] = placing
    reference, found = None, None
    if baseline:
        named = None if source is None else resolve_source(source)
        loaded = load_source(checkpoint, named, **options)
        reference, found = measure(loaded), loaded.path
        del loaded
        gc.collect()  # modules and their hooks refer to each other, so the float weights would linger
    try:
        loaded = load_checkpoint(checkpoint, **options, **spiking)
        return Comparison(measure(loaded), reference, found)
    except BaseException:  # Ctrl-C too
        if reference is not None:
            on_loss(reference)
        raise
