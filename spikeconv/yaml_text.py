"""YAML from somebody else's hand: a value or a sentence."""

from typing import Any

import yaml

from spikeconv.errors import SpikeconvError

__all__ = ["MOST_YAML", "parse_yaml"]

MOST_YAML = 1 << 20
"""Bytes that a file of settings may have."""


class _Loader(yaml.SafeLoader):
    """By YAML's safe rules, and by its rule that a mapping's keys are unique, which PyYAML does not look at."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping as a dict."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a text, by YAML's safe rules.

    Args:
        text: the YAML.
        where: what it is, for the sentence.

    Raises:
        SpikeconvError: it is none.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SpikeconvError(f"{where} is not readable YAML: {reason[:200]}") from None
    # Numbers of too many digits and dates that do not exist; keys that are lists; brackets too deep.
    except (ValueError, TypeError, RecursionError) as error:
        raise SpikeconvError(f"{where} is not readable YAML: {type(error).__name__}") from None
