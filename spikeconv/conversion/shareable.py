"""Which conversions several processes can share; told without torch."""

from collections.abc import Iterable

from spikeconv.config import WeightSettings
from spikeconv.errors import SpikeconvError

__all__ = ["refuse_calibrated"]


def refuse_calibrated(settings: Iterable[WeightSettings]) -> None:
    """Refuse weights of which one depends on another.

    Raises:
        SpikeconvError: as described.
    """
    method = next((weights.method for weights in settings if weights.is_calibrated), None)
    if method is not None:
        raise SpikeconvError(
            f"weights={method} rounds a layer for what the layers before make of a text, one after the other, so that "
            "no shard can begin anywhere else; leave --shard out."
        )
