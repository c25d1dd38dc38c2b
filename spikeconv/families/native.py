"""Layers that the engine runs in native code: which modules play which part."""

from dataclasses import dataclass

__all__ = ["DataMixingBlock", "GatedDecoder", "RecurrentBlock"]


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


Mixed = tuple[str, str | None]
"""The name of a linear, and of the vector beside it that mixes its input with the token before, if one does."""


@dataclass(frozen=True)
class RecurrentBlock:
    """x + output(σ(r) · wkv(k, v)), then x + σ(r) · value(relu(key)²), and nothing else, as in RWKV-4.

    All of r, k, v and key read a LayerNorm of x, each mixed with the token before by a vector of its own.

    Attributes:
        attention, feed_forward: names of the two halves below a block.
        attention_norm, feed_forward_norm: names of the LayerNorms in front of them, below the block.
        entry: name of the LayerNorm in front of all blocks, below the first.
        linears, channel_linears: the linears below `attention` and `feed_forward`, in order of execution.
        of_before: whether those vectors say how much of the token before is taken, not of the token itself.
        decay, bonus: names of the vectors of the recurrence, ln w and u.
        shift: name of a module below either half that has no parameters, or None.
        place: name of an attribute that says a block's place.
        room: the module that the classes of the two halves are defined in.
        stack_room: the beginning of that of the classes around them.
    """

    attention: str = "attention"
    feed_forward: str = "feed_forward"
    attention_norm: str = "ln1"
    feed_forward_norm: str = "ln2"
    entry: str = "pre_ln"
    linears: tuple[Mixed, ...] = (
        ("key", "time_mix_key"),
        ("value", "time_mix_value"),
        ("receptance", "time_mix_receptance"),
        ("output", None),
    )
    channel_linears: tuple[Mixed, ...] = (
        ("key", "time_mix_key"),
        ("receptance", "time_mix_receptance"),
        ("value", None),
    )
    of_before: bool = False
    decay: str = "time_decay"
    bonus: str = "time_first"
    shift: str | None = "time_shift"
    place: str = "layer_id"
    room: str = "spikeconv.models.rwkv4"
    stack_room: str = "transformers.models."

    @property
    def modules(self) -> tuple[set[str], set[str], set[str]]:
        """The names of all modules below a block that is not the first, below its attention and its feed-forward."""
        block = {self.attention, self.feed_forward, self.attention_norm, self.feed_forward_norm}
        shift = set() if self.shift is None else {self.shift}
        return block, {name for name, _ in self.linears} | shift, {name for name, _ in self.channel_linears} | shift


@dataclass(frozen=True)
class DataMixingBlock(RecurrentBlock):
    """The same with output(SiLU(g) · norm(wkv(r, k, v, w))), where data decides the mixes and w, as in RWKV-6.

    low = tanh((x mixed by `first`) · down); x is mixed by `mixes` + low · up; ln -ln of a token's decay is
    decay + tanh(x_w · decay_down) · decay_up.

    Attributes:
        mixes: names of the vectors of decay, key, value, receptance and gate.
        first, down, up, decay_down, decay_up: names of the others.
        head_norm: name of the GroupNorm of what the heads give, below `attention`.
    """

    linears: tuple[Mixed, ...] = (
        ("key", None),
        ("value", None),
        ("receptance", None),
        ("gate", None),
        ("output", None),
    )
    channel_linears: tuple[Mixed, ...] = (("key", "time_maa_k"), ("receptance", "time_maa_r"), ("value", None))
    of_before: bool = True
    bonus: str = "time_faaaa"
    shift: str | None = None
    place: str = "index"
    room: str = "spikeconv.models.rwkv6"
    stack_room: str = "spikeconv.models.rwkv6"
    mixes: tuple[str, ...] = ("time_maa_w", "time_maa_k", "time_maa_v", "time_maa_r", "time_maa_g")
    first: str = "time_maa_x"
    down: str = "time_maa_w1"
    up: str = "time_maa_w2"
    decay_down: str = "time_decay_w1"
    decay_up: str = "time_decay_w2"
    head_norm: str = "ln_x"

    @property
    def modules(self) -> tuple[set[str], set[str], set[str]]:
        """The same."""
        block, attention, feed_forward = super().modules
        return block, attention | {self.head_norm}, feed_forward
