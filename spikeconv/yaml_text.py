"""YAML from somebody else's hand: a value or a sentence."""

from typing import Any

import yaml

from spikeconv.errors import SpikeconvError

__all__ = ["parse_yaml"]


def parse_yaml(text: str, where: str) -> Any:
    """The value of a text, by YAML's safe rules.

    Args:
        text: the YAML.
        where: what it is, for the sentence.

    Raises:
        SpikeconvError: it is none.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SpikeconvError(f"{where} is not readable YAML: {reason[:200]}") from None
    # Numbers of too many digits and dates that do not exist; keys that are lists; brackets too deep.
    except (ValueError, TypeError, RecursionError) as error:
        raise SpikeconvError(f"{where} is not readable YAML: {type(error).__name__}") from None
