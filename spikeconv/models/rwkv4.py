"""RWKV-4 is transformers' own `RwkvForCausalLM`; importing this module repairs it, for every model of the process.

* Its attention is a Python loop over tokens: `wkv4` takes its place.
* Decoding a batch of several sequences token by token mixes them up, since the state's [batch, hidden] is broadcast
  against [batch, 1, hidden]: the token shift is done anew.
* It ignores the attention mask, and so reads padding on the left as text: such a batch is refused.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from transformers.models.rwkv import modeling_rwkv
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvForCausalLM, RwkvSelfAttention

from spikeconv.models.shift import refuse_left_padding, shifted
from spikeconv.models.wkv import WkvState, wkv4

__all__: list[str] = []

State = list[Tensor]
"""Of all layers, each [batch, channels, layers]: last inputs of feed-forward and attention; numerator, denominator and
exponent of the attention."""


def _linear_attention(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: WkvState | None = None,
    return_state: bool = False,
) -> tuple[Tensor, WkvState | None]:
    output, after = wkv4(time_decay, time_first, key, value, state)
    return output, after if return_state or state is not None else None


def _extract_key_value(
    self: Any, hidden: Tensor, state: State | None = None
) -> tuple[Tensor, Tensor, Tensor, State | None]:
    before = _token_before(hidden, state, 1, self.layer_id)
    key = self.key(before.lerp(hidden, self.time_mix_key))
    value = self.value(before.lerp(hidden, self.time_mix_value))
    receptance = torch.sigmoid(self.receptance(before.lerp(hidden, self.time_mix_receptance)))
    return receptance, key, value, state


def _feed_forward(self: Any, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
    before = _token_before(hidden, state, 0, self.layer_id)
    key = torch.relu(self.key(before.lerp(hidden, self.time_mix_key))).square()
    receptance = torch.sigmoid(self.receptance(before.lerp(hidden, self.time_mix_receptance)))
    return receptance * self.value(key), state


def _token_before(hidden: Tensor, state: State | None, part: int, layer: int) -> Tensor:
    """The token before each of hidden [batch, tokens, channels]; the last of them goes into the state."""
    if state is None:
        return shifted(hidden, None)
    before = shifted(hidden, state[part][:, :, layer])
    state[part][:, :, layer] = hidden[:, -1]
    return before


def _checking_padding(forward: Any) -> Any:
    @functools.wraps(forward)
    def checking(self: Any, input_ids: Any = None, attention_mask: Any = None, **arguments: Any) -> Any:
        refuse_left_padding(attention_mask)
        return forward(self, input_ids, attention_mask, **arguments)

    return checking


modeling_rwkv.rwkv_linear_attention = _linear_attention
RwkvSelfAttention.extract_key_value = _extract_key_value  # type: ignore[method-assign]
RwkvFeedForward.forward = _feed_forward  # type: ignore[method-assign]
RwkvForCausalLM.forward = _checking_padding(RwkvForCausalLM.forward)  # type: ignore[method-assign]
