"""The float output head of a loaded model, by native code: in as few bytes as its numbers need, or in 8 bits."""

from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.engine import BLOCK, head_module, head_of
from spikeconv.errors import SpikeconvError
from spikeconv.ops.native import float_head, load

__all__ = ["HeadForward", "is_rounded_by_choice", "round_head"]


class HeadForward:
    """The forward of a float output head, by weights in as few bytes as hold the same numbers.

    Attributes:
        bits: 8 for weights that are rounded to int8; None: not rounded.
    """

    def __init__(self, head: nn.Linear) -> None:
        self.head = head
        self.bits: int | None = None

    def is_native(self) -> bool:
        """Whether native kernels are for the head."""
        weight = self.head.weight
        return weight.is_cpu and weight.dtype == torch.float32 and load("cpu").is_native

    def __call__(self, x: Tensor) -> Tensor:
        """Logits float32 [..., vocabulary] of x [..., hidden]."""
        weight, bias = self.head.weight, self.head.bias
        is_plain = x.is_cpu and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if not is_plain or torch.compiler.is_compiling() or not self.is_native():
            return nn.functional.linear(x, weight, bias)
        head = head_of(weight, self.bits)
        return float_head(x, head.weight, head.scale, None if bias is None else bias.detach())


def round_head(model: Any, bits: int | None) -> None:
    """Round the float output head of a loaded converted model to int8, for half the bytes or a quarter: see `head_of`.

    Args:
        model: on a CPU, in float32.
        bits: 8; None: the head's own numbers again.

    Raises:
        SpikeconvError: it has no head, or one that cannot be rounded here.
    """
    if bits not in (8, None):
        raise SpikeconvError(f"A head is rounded to 8 bits or stays as it is, not to {bits}.")
    if not _can_be_rounded(model):
        raise SpikeconvError(
            "The head stays as it is: it is rounded to 8 bits for native kernels on a CPU, in float32, and where the"
            f" hidden size is a multiple of {BLOCK} (`spikeconv doctor`)."
        )
    head_module(model).forward.bits = bits


def is_rounded_by_choice(model: Any) -> bool:
    """Whether 8 bits change numbers of a model's head, and it can be had in them."""
    return _can_be_rounded(model) and not head_of(head_module(model).weight, 8).is_exact


def _can_be_rounded(model: Any) -> bool:
    head = head_module(model)
    forward = getattr(head, "__dict__", {}).get("forward")
    return isinstance(forward, HeadForward) and forward.is_native() and head.in_features % BLOCK == 0
