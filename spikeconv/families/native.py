"""Layers that the engine runs in native code: which modules play which part."""

from dataclasses import dataclass

__all__ = ["GatedDecoder"]


@dataclass(frozen=True)
class GatedDecoder:
    """x + o(attention(rotary(q|k|v(norm x)))), then x + down(SiLU(gate(norm x)) · up(norm x)), and nothing else.

    Attributes:
        attention, feed_forward: names of the two halves below a layer.
        attention_norm, feed_forward_norm: names of the RMSNorms in front of them, below the layer.
        q, k, v, o: names of the linears below `attention`.
        q_norm, k_norm: names of RMSNorms of each head of q and k, before they are rotated, below `attention`; or None.
        gate, up, down: names of the linears below `feed_forward`.
        activation: name of the module of SiLU below `feed_forward`.
    """

    attention: str = "self_attn"
    feed_forward: str = "mlp"
    attention_norm: str = "input_layernorm"
    feed_forward_norm: str = "post_attention_layernorm"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    q_norm: str | None = None
    k_norm: str | None = None
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    activation: str = "act_fn"

    @property
    def modules(self) -> tuple[set[str], set[str], set[str]]:
        """The names of all modules below a layer, below its attention and below its feed-forward."""
        layer = {self.attention, self.feed_forward, self.attention_norm, self.feed_forward_norm}
        norms = {name for name in (self.q_norm, self.k_norm) if name is not None}
        return layer, {self.q, self.k, self.v, self.o} | norms, {self.gate, self.up, self.down, self.activation}
