"""What RWKV's layers do before anything else, and what they cannot take."""

import torch
from torch import Tensor

from spikeconv.errors import SpikeconvError

__all__ = ["refuse_left_padding", "shifted"]


def shifted(x: Tensor, last: Tensor | None) -> Tensor:
    """The token before each of x [batch, tokens, channels]; before the first comes `last` [batch, channels], or 0."""
    first = torch.zeros_like(x[:, :1]) if last is None else last[:, None].to(x.dtype)
    return torch.cat((first, x[:, :-1]), 1)


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
