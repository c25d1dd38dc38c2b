"""Sizes in bytes as users write them; nothing heavy is imported, so that options can have them as defaults."""

import re

from spikeconv.errors import SpikeconvError

__all__ = ["DEFAULT_SHARD_SIZE", "parse_size"]

DEFAULT_SHARD_SIZE = "5GB"

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as 5GB, 500MB or 2GiB.

    Raises:
        SpikeconvError: it is none, or 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", text, re.IGNORECASE)
    unit = match and UNITS.get(match[2].upper())
    if not match or unit is None or (size := int(float(match[1]) * unit)) < 1:
        raise SpikeconvError(f"{option} is {text[:40]!r}; expected a size such as 5GB, 500MB or 2GiB.")
    return size
