"""The checkpoint's format: its version, once, and what `quantization_config` in `config.json` holds.

    quant_method  "spikeconv"
    format        the version
    zero_share    measured shares of zero counts by linear, which choose layouts at load (optional; no setting)
    weights, inputs, rotation, code, kv, skip, overrides    the settings of the conversion (`SpikeConfig`)

Format 2: nested settings, every one of them written, and thresholds as tensors. Format 1 is not read.
"""

from collections.abc import Mapping
from typing import Any

from spikeconv.config import SpikeConfig
from spikeconv.errors import SpikeconvError

__all__ = ["FORMAT", "METHOD", "RECORD", "check_format", "quantization_config", "read_settings", "zero_shares"]

FORMAT = 2
METHOD = "spikeconv"
RECORD = "spikeconv.json"
"""Every converted checkpoint holds this record of how it was made."""
MEASURED = ("quant_method", "format", "zero_share")
"""Entries that are no settings."""


def quantization_config(config: SpikeConfig) -> dict[str, Any]:
    """The `quantization_config` of a conversion."""
    return {"quant_method": METHOD, "format": FORMAT, **config.model_dump(mode="json")}


def check_format(found: Any) -> None:
    """Refuse a version that is not this one.

    Raises:
        SpikeconvError: the checkpoint is older or newer, or the version is none.
    """
    if type(found) is int and found == FORMAT:
        return
    if type(found) is int and found > FORMAT:
        raise SpikeconvError(f"The checkpoint has format {found}, this spikeconv reads {FORMAT}; upgrade spikeconv.")
    raise SpikeconvError(
        f"The checkpoint has format {found!r}, this spikeconv reads {FORMAT}; convert its source again."
    )


def read_settings(values: Mapping[str, Any]) -> SpikeConfig:
    """The settings in a `quantization_config`.

    Raises:
        SpikeconvError: the format is another, or a setting is unknown, missing or impossible.
    """
    check_format(values.get("format"))
    settings = {key: value for key, value in values.items() if key not in MEASURED}
    try:
        config = SpikeConfig.parse(settings)
    except SpikeconvError as error:
        raise SpikeconvError(f"The checkpoint's quantization_config does not fit this spikeconv: {error}") from None
    if missing := _missing(config.model_dump(mode="json"), settings):
        raise SpikeconvError(
            f"The checkpoint's quantization_config lacks {missing}, without which its weights mean nothing; copy or "
            "convert the checkpoint again."
        )
    return config


def zero_shares(values: Mapping[str, Any]) -> dict[str, float]:
    """The measured shares of zeros by linear in a `quantization_config`; empty where nothing was measured.

    Raises:
        SpikeconvError: they are no shares.
    """
    shares = values.get("zero_share")
    if shares is None:
        return {}
    if not isinstance(shares, dict):
        raise SpikeconvError(f"quantization_config: zero_share is {shares!r}; expected shares by linear.")
    for name, share in shares.items():
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SpikeconvError(
                f"quantization_config: zero_share of {name} is {share!r}; expected shares from 0 to 1 of converted "
                "linears."
            )
    return shares


def _missing(written: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """The path of a setting that is always written but was not found; its default need not be what was meant."""
    for name, value in written.items():
        if name not in found:
            return name
        if isinstance(value, dict) and (below := _missing(value, found[name])):
            return f"{name}.{below}"
    return None
