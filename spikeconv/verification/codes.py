"""Whether the counts of a linear, sent slot by slot through every temporal code, give the accumulators of dense."""

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from spikeconv import ops
from spikeconv.codes import CODES, Code
from spikeconv.nn import SpikeLinear

__all__ = ["CodeCheck", "compare_codes", "sampled"]

LINEARS = 8
"""Linears of a model that are looked at: the tables do not know the layer."""

TOKENS = 2
"""Counts of so many tokens are sent: `unary` takes a slot for each of the largest count."""

MOST_SLOTS = 512
"""Codes that would take more slots for a linear's counts are left out there: each slot is a product."""


@dataclass
class CodeCheck:
    """What one linear's counts gave: accumulators compared with dense, and the codes whose accumulators differ."""

    accumulators: int
    different: list[str]


def sampled(names: list[str]) -> set[str]:
    """Some of a model's linears, spread over its layers and roles: every n-th, beginning with the first."""
    every = -(-len(names) // LINEARS) or 1
    while gcd(every, 2 * 3 * 7) > 1 and every > 1:  # seven roles in a layer, or six: it would be one of them always
        every += 1
    return set(names[::every])


def compare_codes(linear: SpikeLinear, counts: Tensor) -> CodeCheck:
    """Send counts through every code of `CODES` and through the linear's own.

    Args:
        linear: with integer weights.
        counts: int8 or int16 [..., in], of any number of tokens; the first and a later one are taken.
    """
    assert linear.encoder.codec is not None
    flat = counts.reshape(-1, counts.shape[-1])
    few = flat[:: max(1, (len(flat) - 1) // (TOKENS - 1))][:TOKENS]
    largest = max(1, int(few.short().abs().max()))
    dense = _accumulators(linear, few, None, largest)
    # The others with tables of what is seen: a count of 300 that was not sent would only take slots.
    sent = {name: (code, largest) for name, code in CODES.items()}
    sent[f"its own {linear.encoder.code.name}"] = linear.encoder.code, linear.encoder.codec.largest_count
    sent = {name: each for name, each in sent.items() if each[0].slots(each[1]) <= MOST_SLOTS}
    different = [name for name, each in sent.items() if not torch.equal(_accumulators(linear, few, *each), dense)]
    return CodeCheck(len(sent) * dense.numel(), different)


def _accumulators(linear: SpikeLinear, counts: Tensor, code: Code | None, largest: int) -> Tensor:
    """int32 [tokens, out] by a code, or dense; a zero point is not taken off."""
    execution, membrane = ("dense", "add") if code is None else ("unfold", code.membrane)
    settings = ops.ProductSettings(linear.scheme.weights.bits, largest, execution, membrane)
    digits = None if code is None else code.digits(largest).to(counts.device)
    acc: Tensor = ops.accumulate(counts, linear.weight, digits, linear.out_features, settings.table())
    return acc
