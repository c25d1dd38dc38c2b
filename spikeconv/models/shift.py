"""What RWKV's layers do before anything else, and what they cannot take."""

from typing import Any

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["check_padding", "refuse_left_padding", "shifted"]


def shifted(x: Tensor, last: Tensor | None) -> Tensor:
    """The token before each of x [batch, tokens, channels]; before the first comes `last` [batch, channels], or 0."""
    first = torch.zeros_like(x[:, :1]) if last is None else last[:, None].to(x.dtype)
    return torch.cat((first, x[:, :-1]), 1)


def check_padding(_model: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """`refuse_left_padding` as a pre-hook of a model whose second argument is the attention mask."""
    refuse_left_padding(options.get("attention_mask", arguments[1] if len(arguments) > 1 else None))


def refuse_left_padding(attention_mask: Tensor | None) -> None:
    """Check an attention mask [batch, tokens] or None.

    Raises:
        SpikeconvError: a sequence begins with padding, which a recurrent model would remember as text.
    """
    if attention_mask is not None and attention_mask.dim() == 2 and not bool(attention_mask[:, 0].all()):
        raise SpikeconvError(
            "The batch is padded on the left, which a recurrent model would read as text; "
            "pad on the right, or run sequences of one length together."
        )
