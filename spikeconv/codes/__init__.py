"""Temporal codes: how a count is sent. The codec decides which integer it is."""

from spikeconv.codes.base import Code, Cost
from spikeconv.codes.binary import Binary
from spikeconv.codes.ramp import Ramp
from spikeconv.codes.signed_digit import SignedDigit
from spikeconv.codes.unary import Unary
from spikeconv.config import CodeSettings

__all__ = ["CODES", "UNARY", "Binary", "Code", "Cost", "Ramp", "SignedDigit", "Unary", "code_for", "code_of"]

UNARY = Unary()
CODES: dict[str, Code] = {code.name: code for code in (UNARY, Binary(), SignedDigit(), Ramp())}


def code_of(name: str, slots: int | None = None) -> Code:
    """The code of a name in `CODES`, with a number of slots if it is one that takes any (`ramp`)."""
    return Ramp(slots) if name == Ramp.name else CODES[name]


def code_for(settings: CodeSettings) -> Code:
    """The code of a scheme's settings."""
    return code_of(settings.kind, settings.slots)
