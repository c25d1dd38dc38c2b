"""RWKV-4 is transformers' own `RwkvForCausalLM`; the models that are ours to load get layers that mend it.

* Its attention is a Python loop over tokens: `wkv4` takes its place.
* Decoding a batch of several sequences token by token mixes them up, since the state's [batch, hidden] is broadcast
  against [batch, 1, hidden]: the token shift is done anew.
* It ignores the attention mask, and so reads padding on the left as text: such a batch is refused.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention

from spikeconv.models.shift import check_padding, shifted
from spikeconv.models.wkv import wkv4

__all__ = ["adopt"]

State = list[Tensor]
"""Of all layers, each [batch, channels, layers]: last inputs of feed-forward and attention; numerator, denominator and
exponent of the attention."""


class ChunkedSelfAttention(RwkvSelfAttention):
    """Time mixing that reads many tokens in a few large steps."""

    def forward(
        self, hidden: Tensor, state: State | None = None, use_cache: bool = False
    ) -> tuple[Tensor, State | None]:
        """The output [batch, tokens, channels] of hidden, alike in shape, and the state, changed in place."""
        before = _token_before(hidden, state, 1, self.layer_id)
        key = self.key(before.lerp(hidden, self.time_mix_key))
        value = self.value(before.lerp(hidden, self.time_mix_value))
        receptance = torch.sigmoid(self.receptance(before.lerp(hidden, self.time_mix_receptance)))
        seen = None if state is None else (state[2], state[3], state[4])
        own = None if seen is None else tuple(part[:, :, self.layer_id] for part in seen)
        y, after = wkv4(self.time_decay, self.time_first, key, value, own)  # type: ignore[arg-type]
        for part, new in zip(seen or (), after, strict=False):
            part[:, :, self.layer_id] = new
        return self.output(receptance * y), state


class ShiftedFeedForward(RwkvFeedForward):
    """Channel mixing whose token shift keeps the sequences of a batch apart."""

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """The output [batch, tokens, channels] of hidden, alike in shape, and the state, changed in place."""
        before = _token_before(hidden, state, 0, self.layer_id)
        key = torch.relu(self.key(before.lerp(hidden, self.time_mix_key))).square()
        receptance = torch.sigmoid(self.receptance(before.lerp(hidden, self.time_mix_receptance)))
        return receptance * self.value(key), state


def adopt(model: Any) -> None:
    """Give one model the layers above, and let it refuse padding on the left."""
    for module in model.modules():
        if type(module) is RwkvSelfAttention:
            module.__class__ = ChunkedSelfAttention
        elif type(module) is RwkvFeedForward:
            module.__class__ = ShiftedFeedForward
    model.register_forward_pre_hook(check_padding, with_kwargs=True)


def _token_before(hidden: Tensor, state: State | None, part: int, layer: int) -> Tensor:
    """The token before each of hidden [batch, tokens, channels]; the last of them goes into the state."""
    if state is None:
        return shifted(hidden, None)
    before = shifted(hidden, state[part][:, :, layer])
    state[part][:, :, layer] = hidden[:, -1]
    return before
