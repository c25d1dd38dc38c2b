"""What of a loaded model runs another way than it should, and why: nothing falls back without a word."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from spikeconv.engine import obstacle
from spikeconv.errors import SpikeconvWarning
from spikeconv.integrations.attention import cache_obstacle
from spikeconv.nn import spike_linears
from spikeconv.ops.native import load

__all__ = ["fallbacks", "warn_of_fallbacks"]


class _Fallback(NamedTuple):
    """A sentence, and whether the user chose it or will be told elsewhere."""

    text: str
    is_known: bool


def fallbacks(model: Any) -> list[str]:
    """Sentences on the native kernels, the engine and the spiking cache where a model goes without.

    That includes what the user chose (another dtype, another attention); empty: everything runs as it should.
    """
    return [found.text for found in _fallbacks(model)]


def warn_of_fallbacks(model: Any) -> None:
    """Warn once of what nobody chose: a `SpikeconvWarning` for the cache and for the way of decoding."""
    for found in _fallbacks(model):
        if not found.is_known:
            warnings.warn(found.text, SpikeconvWarning, stacklevel=2)


def _fallbacks(model: Any) -> Iterator[_Fallback]:
    devices = {linear.weight.device.type for linear in spike_linears(model).values() if linear.weight_scale is not None}
    for device in sorted(devices - {"meta"}):
        if not (backend := load(device)).is_native:  # the back end itself warns
            yield _Fallback(f"On {device} the reference stands in for the native kernels: {backend.why}.", True)
    if (why := cache_obstacle(model)) is not None:
        yield _Fallback(f"Keys and values stay float, though the checkpoint asks for spike counts: {why}.", False)
    if (found := obstacle(model)) is not None:
        text = f"The model runs transformers' own layers, not the engine: {found.why}."
        yield _Fallback(text, found.is_choice)
