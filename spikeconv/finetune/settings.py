"""What decides the course of a fine-tune; a run goes on only with the settings that it began with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FinetuneSettings"]


class FinetuneSettings(BaseModel):
    """Everything that decides the course of a fine-tune; only its length does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="preset, hub id, directory or file")
    text: str = Field(description="file or dataset")
    text_sha256: str
    clip_mode: str = "relu"
    clip_quantile: float = 0.5
    clip_roles: tuple[str, ...] = ()
    clip_momentum: float = Field(0.9, ge=0, lt=1, description="share of the old τ in the moving average")
    scheme: dict[str, Any] | None = Field(None, description="settings of the conversion that it trains for, or None")
    task: str | None = Field(None, description="labelled texts to train on, or None: a text")
    distill_logits: float = Field(0.0, ge=0, description="weight of the float model's logits in the loss")
    distill_hidden: float = Field(0.0, ge=0, description="weight of its hidden states")
    rotation: str = "gamma-sqp"
    seed: int = Field(2, description="of the rotation's signs, and of the order of the text")
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(4, ge=1, description="windows at once, in each process")
    accumulate: int = Field(1, ge=1, description="batches of one optimizer step")
    refit_tokens: int = Field(8192, ge=0, description="tokens that the clipped linears are refitted on first")
    window: int = Field(512, ge=2, description="tokens of a window")
    precision: str = Field("float32", pattern="^(float32|bfloat16)$")
    gradient_checkpointing: bool = False
    processes: int = 1

    def differences(self, other: "FinetuneSettings") -> list[str]:
        """`field was X, is now Y` for every field in which another run differs."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in type(self).model_fields)
        return [f"{name} was {ours!r}, is now {theirs!r}" for name, ours, theirs in pairs if ours != theirs]
