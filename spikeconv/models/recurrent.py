"""What the recurrent models of this room share: embeddings, blocks and a last norm, a head, and a state by layer.

`blocks` map (x, state of the layer or None) to (x, new state); the state has one size however much was read.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from spikeconv.models.shift import refuse_left_padding

__all__ = ["LayerState", "RecurrentHead", "RecurrentOutput", "RecurrentStack"]


class LayerState(NamedTuple):
    """What one layer of RWKV-6 remembers of everything read: the size does not depend on how much that was.

    Attributes:
        attention: [batch, hidden], the last input of the attention.
        wkv: [batch, heads, head_size, head_size] float32.
        feed_forward: [batch, hidden], the last input of the feed-forward.
    """

    attention: Tensor
    wkv: Tensor
    feed_forward: Tensor


@dataclass
class RecurrentOutput(ModelOutput):
    """`last_hidden_state` [batch, tokens, hidden] or `logits` [batch, tokens, vocabulary]; `state` by layer."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    state: list[Any] | None = None


class RecurrentStack:
    """The forward of a model that has `embeddings`, `blocks` and `ln_out`."""

    config: Any
    embeddings: nn.Embedding
    blocks: nn.ModuleList
    ln_out: nn.LayerNorm

    def embedded(self, input_ids: Tensor) -> Tensor:
        """What the first block reads, [batch, tokens, hidden]."""
        x: Tensor = self.embeddings(input_ids)
        return x

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: list[Any] | None = None,
        use_cache: bool | None = None,
        **ignored: Any,
    ) -> RecurrentOutput:
        """Read input_ids [batch, tokens], from `state` on if given, else from the start of a sequence.

        Raises:
            SpikeconvError: the batch is padded on the left: a recurrent model would read the padding.
        """
        refuse_left_padding(attention_mask)
        x = self.embedded(input_ids)
        states = []
        for index, block in enumerate(self.blocks):
            x, new = block(x, None if state is None else state[index])
            states.append(new)
        keep = self.config.use_cache if use_cache is None else use_cache
        return RecurrentOutput(last_hidden_state=self.ln_out(x), state=states if keep else None)


class RecurrentHead:
    """The head of a model `rwkv`; a class needs GenerationMixin beside it, which transformers looks for there."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}  # noqa: RUF012 (as transformers declares it)

    config: Any
    rwkv: Any
    head: nn.Linear
    loss_function: Any

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.head

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *arguments: Any, **options: Any
    ) -> dict[str, Any]:
        """transformers carries on what it knows by name; the state of a recurrent model is the model's own affair."""
        following: Any = super()
        kept = following._update_model_kwargs_for_generation(outputs, model_kwargs, *arguments, **options)
        return {**kept, "state": outputs.state}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: list[Any] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **ignored: Any,
    ) -> RecurrentOutput:
        """As `RecurrentStack.forward`, with logits of the last `logits_to_keep` tokens (0: all), and a loss."""
        read = self.rwkv(input_ids, attention_mask, state, use_cache)
        logits = self.head(read.last_hidden_state[:, -logits_to_keep:])
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return RecurrentOutput(loss=loss, logits=logits, state=read.state)
