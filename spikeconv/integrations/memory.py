"""What a forward pass remembers of earlier tokens, and by which keyword it goes in and comes out.

transformers renamed that keyword (5.24: `past_key_values` became `cache`), and recurrent models have their own. So a
cache among arguments is known by its class, and where there is none yet the signature says the keyword.
"""

import inspect
from collections.abc import Iterable
from typing import Any

from transformers.cache_utils import Cache

from spikeconv.errors import SpikeconvError

__all__ = ["KEYWORDS", "cache_among", "memory_keyword", "memory_of"]

KEYWORDS = ("cache", "past_key_values", "state")
"""Names that a forward has for what it remembers; it has one of them."""


def cache_among(arguments: Iterable[Any]) -> Cache | None:
    """The first cache among the arguments of a call."""
    return next((value for value in arguments if isinstance(value, Cache)), None)


def memory_keyword(module: Any) -> str:
    """The keyword by which a module's forward takes what it remembers; a model's output gives it by the same name.

    Raises:
        SpikeconvError: its forward takes nothing of that kind.
    """
    parameters = inspect.signature(type(module).forward).parameters
    for keyword in KEYWORDS:
        if keyword in parameters:
            return keyword
    raise SpikeconvError(
        f"{type(module).__name__}.forward takes no {', '.join(KEYWORDS)}: this transformers is newer than spikeconv."
    )


def memory_of(model: Any, output: Any) -> Any:
    """What a model's output remembers."""
    return getattr(output, memory_keyword(model))
