"""The models whose layers are measured: shapes of their linears and of their caches of keys and values."""

from dataclasses import dataclass

__all__ = ["CACHES", "SHAPES", "CacheShape", "Shape"]


@dataclass(frozen=True)
class Shape:
    """One encode group of a model: in_features and the out_features of its linears."""

    model: str
    group: str
    inputs: int
    outputs: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Weights of the group."""
        return self.inputs * sum(self.outputs)

    @property
    def label(self) -> str:
        """`model group in→out`."""
        return f"{self.model} {self.group} {self.inputs}→{sum(self.outputs)}"


def _model(name: str, hidden: int, heads: int, kv_heads: int, ffn: int) -> tuple[Shape, ...]:
    kv = hidden // heads * kv_heads
    return (
        Shape(name, "q|k|v", hidden, (hidden, kv, kv)),
        Shape(name, "o", hidden, (hidden,)),
        Shape(name, "gate|up", hidden, (ffn, ffn)),
        Shape(name, "down", ffn, (hidden,)),
    )


def _rwkv6(name: str, hidden: int, ffn: int) -> tuple[Shape, ...]:
    return (
        Shape(name, "r", hidden, (hidden,)),  # k, v, g and o are the same
        Shape(name, "ffn.key", hidden, (ffn,)),
        Shape(name, "ffn.value", ffn, (hidden,)),
    )


SHAPES = {
    "smollm2-135m": _model("smollm2-135m", 576, 9, 3, 1536),
    "llama3.2-1b": _model("llama3.2-1b", 2048, 32, 8, 8192),
    "llama2-7b": _model("llama2-7b", 4096, 32, 32, 11008),
    "llama3.1-8b": _model("llama3.1-8b", 4096, 32, 8, 14336),
    "llama2-13b": _model("llama2-13b", 5120, 40, 40, 13824),
    "rwkv6-1b6": _rwkv6("rwkv6-1b6", 2048, 7168),
}


@dataclass(frozen=True)
class CacheShape:
    """The attention of one layer of a model."""

    model: str
    heads: int
    key_heads: int
    head_dim: int

    @property
    def label(self) -> str:
        """`model k|v key heads×head_dim`."""
        return f"{self.model} k|v {self.key_heads}×{self.head_dim}"


CACHES = {
    "smollm2-135m": CacheShape("smollm2-135m", 9, 3, 64),
    "llama3.2-1b": CacheShape("llama3.2-1b", 32, 8, 64),
    "llama2-7b": CacheShape("llama2-7b", 32, 32, 128),
    "llama3.1-8b": CacheShape("llama3.1-8b", 32, 8, 128),
    "llama2-13b": CacheShape("llama2-13b", 40, 40, 128),
}
