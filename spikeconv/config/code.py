"""The temporal code: how a spike count is sent over time steps (see `spikeconv.codes`)."""

from typing import Literal

from pydantic import Field

from spikeconv.config.base import Settings

__all__ = ["CodeSettings"]


class CodeSettings(Settings):
    """Which integer is sent is the codec's business; how it is sent, this."""

    kind: Literal["unary", "binary"] = Field(
        "unary", description="unary: |k| spikes of weight one; binary: the digits of |k|, the highest first"
    )
