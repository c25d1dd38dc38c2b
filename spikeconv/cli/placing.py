"""Options of a model that is spread over several devices, and what does not go with them."""

from pathlib import Path

from spikeconv.errors import SpikeconvError
from spikeconv.placing import Placing
from spikeconv.ranks import current

__all__ = ["place"]


def place(model_parallel: bool, limits: str | None, offload_folder: Path | None) -> Placing | None:
    """How a checkpoint is to be spread; None: on one device, as usual.

    Raises:
        SpikeconvError: an option cannot be read, or does not go with what else is asked for.
    """
    placing = Placing.asked(model_parallel, limits, offload_folder)
    if placing is not None and current().count > 1:
        raise SpikeconvError(
            "A model is spread by one process: start it without a launcher, or let each hold a whole one."
        )
    return placing
