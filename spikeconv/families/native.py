"""Layers that the engine runs in native code: which modules play which part."""

from dataclasses import dataclass

__all__ = ["GatedDecoder", "RecurrentBlock"]


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


@dataclass(frozen=True)
class RecurrentBlock:
    """x + output(σ(r) · wkv(k, v)), then x + σ(r) · value(relu(key)²), and nothing else, as in RWKV-4.

    All of r, k, v and key read a LayerNorm of x, each mixed with the token before by a vector of its own.

    Attributes:
        attention, feed_forward: names of the two halves below a block.
        attention_norm, feed_forward_norm: names of the LayerNorms in front of them, below the block.
        entry: name of the LayerNorm in front of all blocks, below the first.
        linears, channel_linears: names of the linears below `attention` and `feed_forward`, in order of execution.
        mix: what stands before the name of such a linear in that of its vector.
        decay, bonus: names of the vectors of the recurrence, ln w and u.
        shift: name of a module below either half that has no parameters.
        room: the module that the classes of the two halves are defined in.
    """

    attention: str = "attention"
    feed_forward: str = "feed_forward"
    attention_norm: str = "ln1"
    feed_forward_norm: str = "ln2"
    entry: str = "pre_ln"
    linears: tuple[str, str, str, str] = ("key", "value", "receptance", "output")
    channel_linears: tuple[str, str, str] = ("key", "receptance", "value")
    mix: str = "time_mix_"
    decay: str = "time_decay"
    bonus: str = "time_first"
    shift: str = "time_shift"
    room: str = "spikeconv.models.rwkv4"

    @property
    def modules(self) -> tuple[set[str], set[str], set[str]]:
        """The names of all modules below a block that is not the first, below its attention and its feed-forward."""
        block = {self.attention, self.feed_forward, self.attention_norm, self.feed_forward_norm}
        return block, {*self.linears, self.shift}, {*self.channel_linears, self.shift}
