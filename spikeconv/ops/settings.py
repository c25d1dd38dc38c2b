"""The settings of the ops. Each travels as one table of numbers and is named twice: here and in
`kernels/common/settings.h`, which checks the same bounds for both native back ends."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from spikeconv.choices import EXECUTIONS
from spikeconv.errors import SpikeconvError

__all__ = [
    "CLIPS",
    "EXECUTIONS",
    "LARGEST_COUNT",
    "MEMBRANES",
    "EncodeSettings",
    "ProductSettings",
    "RowSettings",
]

CLIPS = ("none", "relu", "shifted", "two-sided")
"""What a threshold τ cuts off the potential u: nothing; u·1[u > τ]; max(u - τ, 0); sign(u)·max(|u| - τ, 0) (SDLLM,
quantile-smoothed ReLU)."""

CHOICES = ("auto", *EXECUTIONS)
"""How a product is computed, which must not matter; "auto" is whichever of the first two a weight's layout is for."""

MEMBRANES = ("add", "double", "ramp")
"""What the input I of a slot does to a membrane V: V ← V + I; V ← 2 V + I; or, with a current C that
stays, C ← C + I and V ← V + C."""

LARGEST_COUNT = 128 * 127 + 127
"""Of a product: the kernels take a count as a signed byte, or as two, k = 128 · high + low."""

LARGEST_ACCUMULATOR = 2**31 - 1
MOST_RATIOS = 16


class EncodeSettings(NamedTuple):
    """Settings of `encode`.

    Attributes:
        count_min: smallest count; 0 unless symmetric.
        count_max: largest count; the clipped maximum of a token lands on it.
        symmetric: signed counts; else counts from 0 with a zero point.
        clip_ratio: share of the token's range that is kept.
        clip: what the threshold cuts off, one of `CLIPS`.
        norm_epsilon: ε of the RMSNorm in front.
        step: δ, the step in units of the token's RMS (or mean |u|); 0: it follows from the token's largest potential.
            Where it would not reach that, the token gets the step that does, and no dead zone.
        dead_zone: θ, in the same units: |u| below is not sent.
        one_spike: the largest count that one spike can send, or 0: |u| that is beyond it by less than the dead zone is
            sent as that count.
        by_mean: step and dead zone are in units of the token's mean |u|, not of its RMS.
    """

    count_min: int
    count_max: int
    symmetric: bool = True
    clip_ratio: float = 1.0
    clip: str = "none"
    norm_epsilon: float = 0.0
    step: float = 0.0
    dead_zone: float = 0.0
    one_spike: int = 0
    by_mean: bool = False

    @property
    def bins(self) -> int:
        """Bins of a histogram of counts; bin i counts those that are `count_min + i`."""
        return self.count_max - self.count_min + 1

    @property
    def is_wide(self) -> bool:
        """Whether counts take int16, not int8."""
        return self.count_min < -128 or self.count_max > 127

    def table(self) -> list[float]:
        """As the ops take them."""
        low, high, symmetric, ratio, clip, epsilon, *zone = self
        return [float(low), float(high), float(symmetric), ratio, float(CLIPS.index(clip)), epsilon, *map(float, zone)]

    @classmethod
    def of(cls, table: Sequence[float]) -> "EncodeSettings":
        """Those of a table; SpikeconvError if no kernel could follow them."""
        low, high, symmetric, ratio, clip, epsilon, step, dead, one, mean = _numbers(table, cls._fields)
        _check(
            -32768 <= low <= 0 < high <= 32767
            and low.is_integer()
            and high.is_integer()
            and (bool(symmetric) or low == 0),
            f"counts from {low:g} to {high:g}{'' if symmetric else ' with a zero point'}: expected a range in int16"
            " that holds 0 and more, and begins with it where there is a zero point",
        )
        _check(ratio > 0, f"a clip ratio of {ratio:g}: expected a share above 0")
        _check(epsilon >= 0, f"an epsilon of {epsilon:g} for a norm: expected none below 0")
        _check(step >= 0 and dead >= 0, f"a step of {step:g} and a dead zone of {dead:g}: expected none below 0")
        _check(
            one.is_integer() and 0 <= one <= high, f"{one:g} as the largest count of one spike: expected a count or 0"
        )
        _check(
            bool(symmetric) or step == dead == one == 0,
            "a step or a dead zone beside a zero point: only signed counts take them",
        )
        clipped = _name(clip, CLIPS, "clip")
        return cls(int(low), int(high), bool(symmetric), ratio, clipped, epsilon, step, dead, int(one), bool(mean))


class RowSettings(NamedTuple):
    """Settings of keys and values as rows of counts.

    Attributes:
        bits: bits of a count, 2 to 8.
        group: inputs that share a scale; divides head_dim.
        symmetric: counts in [-2^(b-1), 2^(b-1) - 1]; else from 0 to 2^b - 1 with a zero point.
        clip_ratios: shares of a group's range to try, at most 16; not used to attend.
    """

    bits: int
    group: int
    symmetric: bool = True
    clip_ratios: tuple[float, ...] = (1.0,)

    @property
    def count_min(self) -> int:
        """Smallest count, that of a histogram's bin 0."""
        return -(1 << self.bits - 1) if self.symmetric else 0

    @property
    def bins(self) -> int:
        """Bins of a histogram of counts."""
        return 1 << self.bits

    @property
    def largest_count(self) -> int:
        """Bound on |count|."""
        return 1 << self.bits - 1 if self.symmetric else (1 << self.bits) - 1

    def table(self) -> list[float]:
        """As the ops take them."""
        return [float(self.bits), float(self.group), float(self.symmetric), *self.clip_ratios]

    @classmethod
    def of(cls, table: Sequence[float], head_dim: int) -> "RowSettings":
        """Those of a table; SpikeconvError if no rows of head_dim counts could follow them."""
        ratios = len(table) - 3
        _check(1 <= ratios <= MOST_RATIOS, f"{ratios} clip ratios: expected 1 to {MOST_RATIOS}")
        bits, group, symmetric, *rest = _numbers(table, (*cls._fields[:3], *["clip ratio"] * ratios))
        _check(2 <= bits <= 8 and bits.is_integer(), f"keys and values are counts of 2 to 8 bits, not {bits:g}")
        divides = group >= 1 and group.is_integer() and head_dim >= 1 and head_dim % group == 0
        _check(divides, f"groups of {group:g} do not divide a head_dim of {head_dim}")
        _check(min(rest) > 0, "a clip ratio of 0 or less: expected a share above 0")
        return cls(int(bits), int(group), bool(symmetric), tuple(rest))


class ProductSettings(NamedTuple):
    """Settings of `accumulate` and `linears`.

    Attributes:
        bits: bits of a weight, 2 to 8.
        largest_count: bound on |counts|, at most `LARGEST_COUNT`. It is the caller's to keep.
        execution: "auto" or one of `EXECUTIONS`.
        membrane: what a slot does to the membrane where "unfold" runs, one of `MEMBRANES`.
    """

    bits: int
    largest_count: int
    execution: str = "auto"
    membrane: str = "add"

    def table(self) -> list[float]:
        """As the ops take them."""
        bits, largest, execution, membrane = self
        return [float(bits), float(largest), float(CHOICES.index(execution)), float(MEMBRANES.index(membrane))]

    @classmethod
    def of(cls, table: Sequence[float], in_features: int) -> "ProductSettings":
        """Those of a table; SpikeconvError if no kernel could follow them or an accumulator could overflow."""
        bits, largest, execution, membrane = _numbers(table, cls._fields)
        _check(2 <= bits <= 8 and bits.is_integer(), f"weights of {bits:g} bits: expected 2 to 8")
        _check(
            1 <= largest <= LARGEST_COUNT and largest.is_integer(),
            f"counts up to {largest:g}: the kernels multiply counts up to {LARGEST_COUNT}",
        )
        bound = int(largest) * in_features << int(bits) - 1
        _check(
            bound <= LARGEST_ACCUMULATOR,
            f"{in_features} inputs with counts up to {largest:g} and weights of {bits:g} bits may add up to {bound},"
            f" beyond an int32 ({LARGEST_ACCUMULATOR}); take fewer bits or fewer steps",
        )
        chosen = _name(execution, CHOICES, "execution"), _name(membrane, MEMBRANES, "membrane")
        return cls(int(bits), int(largest), *chosen)


def _numbers(table: Sequence[float], names: Sequence[str]) -> list[float]:
    _check(len(table) == len(names), f"a table of {len(table)} settings: expected {', '.join(names)}")
    for name, value in zip(names, table, strict=True):
        _check(isfinite(value), f"{name} is {value}: expected a number")
    return [float(value) for value in table]


def _name(number: float, names: tuple[str, ...], what: str) -> Any:
    _check(number in range(len(names)), f"{what} number {number:g}: expected 0 to {len(names) - 1}")
    return names[int(number)]


def _check(condition: bool, sentence: str) -> None:
    if not condition:
        raise SpikeconvError(f"Settings that no kernel takes: {sentence}.")
