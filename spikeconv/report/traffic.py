"""How long counts take, and how many spikes travel at once, fired synchronously, asynchronously, or some at a time.

    synchronous     all neurons keep one clock: slot t carries the spikes that the code sends in t
    asynchronous    a neuron sends all spikes of its count at once (SDLLM, sections 4.1 and 6)
    N at a time     N slots of the code together: ⌈slots / N⌉ steps

The spikes, and so their energy, are the same. Traffic is in spikes of one input vector, the mean over tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spikeconv.errors import SpikeconvError

if TYPE_CHECKING:
    from spikeconv.codes import Code
    from spikeconv.record.record import LayerRecord

__all__ = ["CodeTraffic", "Firing", "Traffic", "code_traffic", "parse_firing", "traffic"]

Firing = int | Literal["sync", "async"]
"""Slots sent together, or one by one, or all."""


@dataclass(frozen=True)
class Traffic:
    """Of the input of one linear.

    Attributes:
        name, role: of the linear.
        latency: steps until a count has been sent.
        peak: spikes of the busiest step.
        mean: spikes of a step.
        steps: spikes of each step.
    """

    name: str
    role: str
    latency: int
    peak: float
    mean: float
    steps: tuple[float, ...]


def parse_firing(text: str) -> Firing:
    """`sync`, `async`, or how many slots go together.

    Raises:
        SpikeconvError: it is none of them.
    """
    if text in ("sync", "async"):
        return text  # type: ignore[return-value]
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 15:
        raise SpikeconvError(f"--firing is sync, async, or a number of slots from 1, not {text[:40]!r}.")
    return int(text)


def traffic(record: "LayerRecord", firing: Firing) -> Traffic | None:
    """What the input of a linear sends; None where it sends no spikes.

    With T time steps of neurons each is a step, whatever is sent together.
    """
    inputs = record.scheme.inputs
    if inputs.codec == "float" or inputs.spikes == "integer" or not record.tokens:
        return None
    if inputs.codec in ("elastic", "lif"):
        slots = [record.spikes / record.tokens / record.planes] * record.planes
    else:
        digits = record.code.digits(inputs.largest_count).abs()
        sent = [0.0] * len(digits)
        for count, times in record.histogram.items():
            for slot, fires in enumerate(digits[:, abs(count)].tolist()):
                sent[slot] += fires * times / record.tokens
        slots = sent
    together = 1 if firing == "sync" else len(slots) if firing == "async" else firing
    steps = tuple(sum(slots[first : first + together]) for first in range(0, len(slots), together))
    return Traffic(record.name, record.role, len(steps), max(steps), sum(steps) / len(steps), steps)


@dataclass(frozen=True)
class CodeTraffic:
    """What some inputs send by one code, whichever is theirs: the counts are the same.

    Attributes:
        code: its name.
        is_own: whether the model uses it.
        slots: mean spikes of an input in each slot, fired synchronously; their sum is the spikes of an input.
        bursts: share of inputs that send so many spikes at once, fired asynchronously, by that number.
    """

    code: str
    is_own: bool
    slots: tuple[float, ...]
    bursts: dict[int, float]


def code_traffic(records: "Sequence[LayerRecord]") -> list[CodeTraffic]:
    """The same counts by every temporal code; each input counts the same. Nothing where spikes are no counts of a code.

    A `ramp` that the model does not use has as many slots as the largest count.

    Args:
        records: of encoders, one of each.
    """
    sent = [each for each in records if each.scheme.inputs.codec in ("count", "repetition") and each.inputs]
    counted = [each for each in sent if each.scheme.inputs.spikes != "integer"]
    if not counted:
        return []
    from spikeconv.codes import CODES  # which imports torch

    own = {each.scheme.code.kind for each in counted}
    return [_by_code(name, code, name in own, counted) for name, code in CODES.items()]


def _by_code(name: str, other: "Code", is_own: bool, records: "list[LayerRecord]") -> CodeTraffic:
    inputs = sum(each.inputs for each in records)
    slots: list[float] = []
    bursts: dict[int, float] = {}
    for each in records:
        code = each.code if each.scheme.code.kind == name else other
        digits = code.digits(max(each.scheme.inputs.largest_count, 1)).abs()  # type: ignore[union-attr]
        fires, sent = digits.T.tolist(), digits.sum(0).tolist()
        slots += [0.0] * (len(digits) - len(slots))
        for count, times in each.histogram.items():
            share = times / inputs
            bursts[sent[abs(count)]] = bursts.get(sent[abs(count)], 0.0) + share
            for slot, fired in enumerate(fires[abs(count)]):
                slots[slot] += fired * share
    return CodeTraffic(name, is_own, tuple(slots), dict(sorted(bursts.items())))
