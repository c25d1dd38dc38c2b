"""What the tool must know about an architecture, as data.

A family names the linears of one decoder layer, with the role each plays, the encode group it shares its input with
and the norm in front of it; and what stays as it is, with the reason. Everything else is read from the checkpoint.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = ["Family", "LinearSpec", "ModuleLinear", "folded_norms", "gated_decoder_linears"]


@dataclass(frozen=True)
class LinearSpec:
    """One linear of a decoder layer.

    Attributes:
        name: module path below the layer, as in `self_attn.q_proj`.
        role: short name used in tables and patterns (`q`, `k`, `v`, `o`, `gate`, `up`, `down`).
        group: linears of a layer with the same group see the same input and share one encode.
        norm: path below the layer of the norm whose γ scales the input, or None.
    """

    name: str
    role: str
    group: str
    norm: str | None = None


@dataclass(frozen=True)
class ModuleLinear:
    """A `LinearSpec` placed in a model: full module names."""

    name: str
    role: str
    layer: int
    group: str
    norm: str | None


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        model_type: the `model_type` of `config.json`.
        architecture: the class name in `architectures`.
        linears: the linears of every layer, in order of execution.
        layers: path of the list of layers.
        skipped: module paths that stay as they are, with the reason shown to the user.
        gguf: the architecture's name in GGUF files, or None if such files are not read.
    """

    model_type: str
    architecture: str
    linears: tuple[LinearSpec, ...]
    layers: str = "model.layers"
    skipped: dict[str, str] = field(
        default_factory=lambda: {
            "model.embed_tokens": "a table look-up multiplies nothing",
            "lm_head": "the output head stays in floating point, as in the paper",
        }
    )
    gguf: str | None = None

    def layout(self, layer_count: int) -> list[ModuleLinear]:
        """Every linear of a model with that many layers, in order."""
        result = []
        for layer in range(layer_count):
            prefix = f"{self.layers}.{layer}"
            for spec in self.linears:
                norm = f"{prefix}.{spec.norm}" if spec.norm else None
                result.append(ModuleLinear(f"{prefix}.{spec.name}", spec.role, layer, f"{prefix}.{spec.group}", norm))
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
