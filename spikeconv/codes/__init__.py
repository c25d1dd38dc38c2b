"""Temporal codes: how a count is sent. The codec decides which integer it is."""

from spikeconv.codes.base import Code, Cost
from spikeconv.codes.binary import Binary
from spikeconv.codes.unary import Unary

__all__ = ["CODES", "UNARY", "Binary", "Code", "Cost", "Unary", "code_of"]

UNARY = Unary()
CODES: dict[str, Code] = {code.name: code for code in (UNARY, Binary())}


def code_of(name: str) -> Code:
    """The code of a name in `CODES`."""
    return CODES[name]
