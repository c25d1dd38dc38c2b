"""Where the weights of a model lie that is too large for one device: several devices, main memory, the disk.

accelerate brings each to the device that computes when its module runs. Weights on the disk stay in the checkpoint's
own files.
"""

from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from spikeconv.errors import SpikeconvError
from spikeconv.sizes import parse_size

__all__ = ["Placing", "check_folder", "parse_limits"]

OPTION = "--memory-limits"


@dataclass(frozen=True)
class Placing:
    """How a model is spread.

    Attributes:
        limits: bytes of weights for each GPU (its number) and `cpu`; None: what is free. The disk takes the rest.
        offload_folder: where a weight is written that cannot be read from the checkpoint as it is.
    """

    limits: dict[int | str, int] | None = None
    offload_folder: Path | None = None

    @classmethod
    def asked(cls, model_parallel: bool, limits: str | None, offload_folder: Path | None) -> "Placing | None":
        """What a command line asks for; None if nothing, and the model is on one device as usual.

        Raises:
            SpikeconvError: the limits cannot be read, or there is no such folder.
        """
        if not model_parallel and limits is None and offload_folder is None:
            return None
        if offload_folder is not None:
            check_folder(offload_folder)
        return cls(None if limits is None else parse_limits(limits), offload_folder)

    @staticmethod
    def told(placing: "Placing | None") -> dict[str, int] | str | None:
        """For `measured`: None on one device, else the limits, or that there are none."""
        if placing is None:
            return None
        return "what is free" if placing.limits is None else {str(name): size for name, size in placing.limits.items()}

    def options(self) -> dict[str, Any]:
        """For `from_pretrained`. Packed weights are buffers, so these go too."""
        getLogger("accelerate").setLevel("ERROR")  # it tells of weights elsewhere, which were asked for
        folder = {} if self.offload_folder is None else {"offload_folder": str(self.offload_folder)}
        return {"device_map": "auto", "max_memory": self.limits, "offload_buffers": True, **folder}


def check_folder(folder: Path) -> None:
    """Check that weights can be written there.

    Raises:
        SpikeconvError: it is no folder.
    """
    if not folder.is_dir():
        raise SpikeconvError(f"--offload-folder {folder} is no folder; create it first.")


def parse_limits(text: str) -> dict[int | str, int]:
    """Bytes by device, as in `0=20GB,1=20GB,cpu=60GB`.

    Raises:
        SpikeconvError: it is something else.
    """
    found: dict[int | str, int] = {}
    for part in text.split(","):
        name, equals, size = (word.strip() for word in part.partition("="))
        if not equals or not (name == "cpu" or (name.isascii() and name.isdigit() and len(name) < 4)):
            raise SpikeconvError(
                f"{OPTION} is {text[:60]!r}; expected a size for each GPU by its number, and for cpu, as in "
                "0=20GB,cpu=60GB."
            )
        device = name if name == "cpu" else int(name)
        if device in found:
            raise SpikeconvError(f"{OPTION} names {name} twice.")
        found[device] = parse_size(size, OPTION)
    return found
