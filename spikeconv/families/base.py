"""What the tool must know about an architecture, as data.

A family declares its stacks of equal layers: the linears of one, with the role each plays, the encode group it shares
its input with and the norm in front of it; and what stays as it is, with the reason. Nothing is inferred from the names
of modules; everything else is read from the checkpoint.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spikeconv.config import Override, SpikeConfig
from spikeconv.families.native import GatedDecoder, RecurrentBlock
from spikeconv.families.norm import RMS, NormKind

__all__ = [
    "Family",
    "Head",
    "LinearSpec",
    "ModuleLinear",
    "Stack",
    "attention_macs",
    "folded_norms",
    "gated_decoder",
    "head_dim",
]


@dataclass(frozen=True)
class LinearSpec:
    """One linear of a decoder layer.

    Attributes:
        name: module path below the layer, as in `self_attn.q_proj`.
        role: short name used in tables and patterns (`q`, `k`, `v`, `o`, `gate`, `up`, `down`).
        group: linears of a layer with the same group see the same input and share one encode.
        norm: path below the layer of the norm whose γ scales the input, or None.
        center: path below the layer of the LayerNorm whose bias is a constant part of the input, or None. That part c
            is taken off before the encoder: W x = W (x - c) + W c for any c.
        before: whether that LayerNorm is in the layer before (for the first layer, the stack's `entry`).
        writer: path below the layer of the linear whose rows scale the input channel by channel, or None: multiplying
            row r of it, and its bias, by d multiplies the channels by d that it writes.
        heads: whether the writer's heads are repeated to make the input, as those of v in grouped-query attention.
    """

    name: str
    role: str
    group: str
    norm: str | None = None
    center: str | None = None
    writer: str | None = None
    heads: bool = False
    before: bool = False


@dataclass(frozen=True)
class ModuleLinear:
    """A `LinearSpec` placed in a model: full module names; `layer` counts through all stacks.

    `head` is the size of one head of the writer that is repeated as a whole, or None: the input has its rows.
    """

    name: str
    role: str
    layer: int
    group: str
    norm: str | None
    center: str | None
    norm_kind: NormKind
    writer: str | None = None
    head: int | None = None

    @property
    def folds(self) -> bool:
        """Whether a factor per channel of the input can be made part of what stands in front of it."""
        return self.norm is not None or self.writer is not None


@dataclass(frozen=True)
class Stack:
    """A list of equal layers.

    Attributes:
        layers: path of the list.
        count: the field of the model's config that says how many there are.
        linears: the linears of every layer, in order of execution.
        norm: the kind of the norms in front of them.
        attention: path below a layer of the module whose keys and values can be counts, or None.
        native: the modules of a layer that is x + attention(norm x), then x + feed-forward(norm x), which the engine
            runs; None: it is not.
        recurrent: the modules of a layer without attention that the engine runs; None: it is not one.
        entry: path of the norm whose output the first layer reads, where layers end in one; else None.
    """

    layers: str
    linears: tuple[LinearSpec, ...]
    norm: NormKind
    count: str = "num_hidden_layers"
    attention: str | None = None
    native: GatedDecoder | None = None
    recurrent: RecurrentBlock | None = None
    entry: str | None = None

    def size(self, config: Any) -> int:
        """How many layers a model with that transformers configuration has."""
        return int(getattr(config, self.count))


HEAD_STAYS = "a head stays in floating point, as in the papers"


class Head(NamedTuple):
    """What an architecture adds to a family's layers: the class of transformers that makes it, and its module."""

    auto_class: str
    module: str


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: the `model_type` of `config.json`.
        architecture: the class name in `architectures`.
        stacks: the lists of layers, in order of execution.
        skipped: module paths that stay as they are, with the reason shown to the user.
        float_macs: multiply-accumulates that stay in floating point for one sequence, by what they are for, from the
            model's config and the number of tokens. Elementwise work is not counted.
        encodes: whether it reads a text as a whole and gives vectors: there is no next token to predict.
        fires: whether its layers end in neurons of their own: a hair more can be a spike more, and what comes behind
            another number.
        recurrent: whether what it remembers of earlier tokens has one size however much was read; then there is no
            longest text, and padding on the left would be read.
        gguf: the architecture's name in GGUF files, or None if such files are not read.
        role_settings: settings of some roles, unless the user says otherwise.
        model_settings: the same, of a model with that configuration; these go before.
        fixed: entries that `config.json` must have.
        package: the package that brings the model class, if transformers and spikeconv do not.
        no_quarot: why QuaRot's rotation is impossible, or None.
        auto_class: the class of transformers that makes its models.
        heads: other architectures of the same layers, which have a head.
        base: what such an architecture calls the model below its head.
    """

    model_type: str
    architecture: str
    stacks: tuple[Stack, ...]
    float_macs: Callable[[Any, int], dict[str, int]]
    skipped: dict[str, str] = field(
        default_factory=lambda: {
            "model.embed_tokens": "a table look-up multiplies nothing",
            "lm_head": "the output head stays in floating point, as in the paper",
        }
    )
    recurrent: bool = False
    encodes: bool = False
    fires: bool = False
    gguf: str | None = None
    role_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model_settings: Callable[[Any], Mapping[str, Mapping[str, Any]]] = lambda config: {}
    fixed: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    no_quarot: str | None = None
    auto_class: str = "AutoModelForCausalLM"
    heads: Mapping[str, Head] = field(default_factory=dict)
    base: str = ""

    def head_of(self, architectures: Any) -> Head | None:
        """The head of the first of a config's `architectures` that has one."""
        named = architectures if isinstance(architectures, list | tuple) else [architectures]
        return next((self.heads[str(each)] for each in named if str(each) in self.heads), None)

    def auto_name(self, architectures: Any) -> str:
        """The name of the class of transformers that makes the model of a config's `architectures`."""
        head = self.head_of(architectures)
        return self.auto_class if head is None else head.auto_class

    def auto_model(self, architectures: Any = None) -> Any:
        """That class itself."""
        import transformers  # which takes seconds, and a family is data

        return getattr(transformers, self.auto_name(architectures))

    def prefix_of(self, config: Any) -> str:
        """What stands in front of the names of modules in a model with that transformers configuration."""
        return f"{self.base}." if self.head_of(getattr(config, "architectures", None)) else ""

    def skipped_in(self, config: Any) -> dict[str, str]:
        """What stays of such a model, with the reason."""
        head, base = self.head_of(getattr(config, "architectures", None)), self.prefix_of(config)
        own = {f"{base}{module}": reason for module, reason in self.skipped.items()}
        return own if head is None else {**own, head.module: HEAD_STAYS}

    def is_float(self, module: str) -> bool:
        """Whether a module is one of those that stay, or of a head, as the family calls it."""
        kept = (*self.skipped, *(head.module for head in self.heads.values()))
        return any(module == name or module.startswith(f"{name}.") for name in kept)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of its linears, in order."""
        return tuple(dict.fromkeys(spec.role for stack in self.stacks for spec in stack.linears))

    @property
    def has_attention(self) -> bool:
        """Whether there are keys and values that can be counts."""
        return any(stack.attention for stack in self.stacks)

    def settle(self, config: SpikeConfig, model_config: Any) -> SpikeConfig:
        """A conversion's settings with the family's own in front of the user's overrides.

        They hold for spike counts that are sent as spikes; other codecs and counts sent whole treat all roles alike. A
        step from the token's RMS or mean needs signed counts, of which an input that is never below 0 uses one sign.
        """
        inputs = config.inputs
        if inputs.codec != "count" or inputs.spikes == "integer":
            return config
        own = self.model_settings(model_config)
        signed = {"inputs.spikes"} if inputs.scale != "max" or inputs.dead_zone else set()
        ours = (
            Override(pattern=role, settings={name: value for name, value in fields.items() if name not in signed})
            for role, fields in self.role_settings.items()
            if role not in own
        )
        exact = (Override(pattern=role, settings=dict(fields)) for role, fields in own.items())
        return config.model_copy(update={"overrides": (*ours, *exact, *config.overrides)})

    def layout(self, config: Any) -> list[ModuleLinear]:
        """Every linear of a model with that transformers configuration (of its text part), in order."""
        result: list[ModuleLinear] = []
        before, base = 0, self.prefix_of(config)
        for stack in self.stacks:
            for layer in range(stack.size(config)):
                prefix = f"{base}{stack.layers}.{layer}"
                for spec in stack.linears:
                    paths = (spec.norm, spec.center, spec.writer)
                    norm, center, writer = (name and f"{prefix}.{name}" for name in paths)
                    entry = stack.entry and f"{base}{stack.entry}"
                    if spec.before:
                        center = f"{base}{stack.layers}.{layer - 1}.{spec.center}" if layer else entry
                    name, group = f"{prefix}.{spec.name}", f"{prefix}.{spec.group}"
                    head = head_dim(config) if spec.heads else None
                    place = (name, spec.role, before + layer, group)
                    result.append(ModuleLinear(*place, norm, center, stack.norm, writer, head))
            before += stack.size(config)
        return result


def folded_norms(layout: list[ModuleLinear], converted: Collection[str]) -> dict[str, str]:
    """QuaRot: the linears whose input norm is folded into them, with that norm.

    A norm is folded if any linear behind it is converted; then the others behind it are folded too, converted or not,
    since the norm itself becomes 1.
    """
    norms = {linear.norm for linear in layout if linear.name in converted}
    return {linear.name: linear.norm for linear in layout if linear.norm and linear.norm in norms}


def gated_decoder(native: GatedDecoder) -> tuple[Stack, ...]:
    """The one stack of pre-norm decoder layers with a gated feed-forward (LLaMA and its descendants)."""
    attention_norm, ffn_norm = "input_layernorm", "post_attention_layernorm"
    linears = (
        LinearSpec("self_attn.q_proj", "q", "qkv", attention_norm),
        LinearSpec("self_attn.k_proj", "k", "qkv", attention_norm),
        LinearSpec("self_attn.v_proj", "v", "qkv", attention_norm),
        LinearSpec("self_attn.o_proj", "o", "o", writer="self_attn.v_proj", heads=True),
        LinearSpec("mlp.gate_proj", "gate", "gate_up", ffn_norm),
        LinearSpec("mlp.up_proj", "up", "gate_up", ffn_norm),
        LinearSpec("mlp.down_proj", "down", "down", writer="mlp.up_proj"),
    )
    return (Stack("model.layers", linears, RMS, attention="self_attn", native=native),)


def head_dim(config: Any) -> int:
    """Size of one attention head; only some configs say it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def attention_macs(config: Any, tokens: int) -> dict[str, int]:
    """QKᵀ and PV of a transformer over the full N² of one sequence, and its output head."""
    return {
        "attention": 2 * tokens**2 * config.num_hidden_layers * config.num_attention_heads * head_dim(config),
        "head": tokens * config.hidden_size * config.vocab_size,
    }
