"""What the tool must know about an architecture, as data.

A family names the linears of one decoder layer, with the role each plays, the encode group it shares its input with
and the norm in front of it; and what stays as it is, with the reason. Everything else is read from the checkpoint.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from spikeconv.config import Override, SpikeConfig

__all__ = [
    "Family",
    "LinearSpec",
    "ModuleLinear",
    "attention_macs",
    "folded_norms",
    "gated_decoder_linears",
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
    """

    name: str
    role: str
    group: str
    norm: str | None = None
    center: str | None = None


@dataclass(frozen=True)
class ModuleLinear:
    """A `LinearSpec` placed in a model: full module names."""

    name: str
    role: str
    layer: int
    group: str
    norm: str | None
    center: str | None


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: the `model_type` of `config.json`.
        architecture: the class name in `architectures`.
        linears: the linears of every layer, in order of execution.
        layers: path of the list of layers.
        attention: path below a layer of the module whose keys and values can be counts, or None.
        skipped: module paths that stay as they are, with the reason shown to the user.
        float_macs: multiply-accumulates that stay in floating point for one sequence, by what they are for, from the
            model's config and the number of tokens. Elementwise work is not counted.
        native_layer: the native layer that computes one token of one of its layers ("gated-decoder"), or None.
        recurrent: whether what it remembers of earlier tokens has one size however much was read; then there is no
            longest text, and padding on the left would be read.
        gguf: the architecture's name in GGUF files, or None if such files are not read.
        role_settings: settings of some roles, unless the user says otherwise.
        fixed: entries that `config.json` must have.
        package: the package that brings the model class, if transformers and spikeconv do not.
        no_quarot: why QuaRot's rotation is impossible, or None.
    """

    model_type: str
    architecture: str
    linears: tuple[LinearSpec, ...]
    float_macs: Callable[[Any, int], dict[str, int]]
    layers: str = "model.layers"
    attention: str | None = "self_attn"
    native_layer: str | None = None
    skipped: dict[str, str] = field(
        default_factory=lambda: {
            "model.embed_tokens": "a table look-up multiplies nothing",
            "lm_head": "the output head stays in floating point, as in the paper",
        }
    )
    recurrent: bool = False
    gguf: str | None = None
    role_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    no_quarot: str | None = None

    def settle(self, config: SpikeConfig) -> SpikeConfig:
        """A conversion's settings with the family's own in front of the user's overrides.

        They hold for spike counts that are sent as spikes; other codecs and counts sent whole treat all roles alike.
        """
        if config.codec != "count" or config.spikes not in ("ternary", "binary"):
            return config
        ours = (Override(pattern=role, settings=dict(fields)) for role, fields in self.role_settings.items())
        return config.model_copy(update={"overrides": (*ours, *config.overrides)})

    def layout(self, layer_count: int) -> list[ModuleLinear]:
        """Every linear of a model with that many layers, in order."""
        result = []
        for layer in range(layer_count):
            prefix = f"{self.layers}.{layer}"
            for spec in self.linears:
                norm, center = (name and f"{prefix}.{name}" for name in (spec.norm, spec.center))
                name, group = f"{prefix}.{spec.name}", f"{prefix}.{spec.group}"
                result.append(ModuleLinear(name, spec.role, layer, group, norm, center))
        return result


def folded_norms(layout: list[ModuleLinear], converted: Collection[str]) -> dict[str, str]:
    """QuaRot: the linears whose input norm is folded into them, with that norm.

    A norm is folded if any linear behind it is converted; then the others behind it are folded too, converted or not,
    since the norm itself becomes 1.
    """
    norms = {linear.norm for linear in layout if linear.name in converted}
    return {linear.name: linear.norm for linear in layout if linear.norm and linear.norm in norms}


def gated_decoder_linears() -> tuple[LinearSpec, ...]:
    """The seven linears of a pre-norm decoder layer with a gated feed-forward (LLaMA and its descendants)."""
    attention_norm, ffn_norm = "input_layernorm", "post_attention_layernorm"
    return (
        LinearSpec("self_attn.q_proj", "q", "qkv", attention_norm),
        LinearSpec("self_attn.k_proj", "k", "qkv", attention_norm),
        LinearSpec("self_attn.v_proj", "v", "qkv", attention_norm),
        LinearSpec("self_attn.o_proj", "o", "o"),
        LinearSpec("mlp.gate_proj", "gate", "gate_up", ffn_norm),
        LinearSpec("mlp.up_proj", "up", "gate_up", ffn_norm),
        LinearSpec("mlp.down_proj", "down", "down"),
    )


def head_dim(config: Any) -> int:
    """Size of one attention head; only some configs say it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def attention_macs(config: Any, tokens: int) -> dict[str, int]:
    """QKᵀ and PV of a transformer over the full N² of one sequence, and its output head."""
    return {
        "attention": 2 * tokens**2 * config.num_hidden_layers * config.num_attention_heads * head_dim(config),
        "head": tokens * config.hidden_size * config.vocab_size,
    }
