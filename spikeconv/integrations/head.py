"""The float output head of a loaded model, by native code: in as few bytes as its numbers need, or in 8 bits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikeconv.engine import BLOCK, Likelihoods, head_module, head_of
from spikeconv.errors import SpikeconvError
from spikeconv.integrations.watched import watches
from spikeconv.ops.native import load
from spikeconv.ops.native_models import float_head, head_likelihoods

__all__ = ["HeadForward", "is_rounded_by_choice", "likelihoods_by", "likelihoods_of", "round_head"]

CHUNK = 256
"""Rows whose logits are held at once: 50 MB with 49,152 tokens, where a window of 2,048 takes 400 MB."""


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
        if (tables := self._tables(x)) is None:
            return nn.functional.linear(x, self.head.weight, self.head.bias)
        return float_head(x, *tables)

    def likelihoods(self, x: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log softmax of the logits of x [R, hidden] at some rows and tokens, int64 [Q].

        Returns:
            float64 [Q], and bool [Q]: whether no token of that row has a higher logit.
        """
        if (tables := self._tables(x)) is None:
            return likelihoods_of(self, x, rows, tokens)
        return head_likelihoods(x, *tables, rows, tokens)

    def _tables(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
        """Weight, scale and bias for a native product; None where torch's is for x."""
        is_plain = x.is_cpu and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if not is_plain or torch.compiler.is_compiling() or not self.is_native():
            return None
        head, bias = head_of(self.head.weight, self.bits), self.head.bias
        return head.weight, head.scale, None if bias is None else bias.detach()


def likelihoods_by(head: nn.Module) -> Likelihoods:
    """How likely a head finds tokens: in native code where nobody watches or replaced what it does."""
    forward = head.__dict__.get("forward")
    if isinstance(forward, HeadForward) and not watches([head._forward_hooks, head._forward_pre_hooks]):
        return forward.likelihoods
    return partial(likelihoods_of, head)


def likelihoods_of(head: Callable[[Tensor], Tensor], x: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`HeadForward.likelihoods` by way of logits, CHUNK rows of them at a time."""
    found = torch.empty(len(tokens), dtype=torch.float64, device=x.device)
    is_best = torch.empty(len(tokens), dtype=torch.bool, device=x.device)
    for begin in range(0, len(x), CHUNK):
        here = (begin <= rows) & (rows < begin + CHUNK)
        logits, row, token = head(x[begin : begin + CHUNK]).float(), rows[here] - begin, tokens[here]
        found[here] = logits.log_softmax(-1)[row, token].double()
        is_best[here] = logits.argmax(-1)[row] == token
    return found, is_best


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
