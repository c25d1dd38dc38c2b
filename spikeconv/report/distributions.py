"""How often each count comes, beside a Gaussian; and what SDLLM's encoders make of the same potentials.

    P(k) = Φ((k + ½ - μ) / σ) - Φ((k - ½ - μ) / σ)      a Gaussian of the counts' own mean μ and deviation σ, rounded

A rotated input is nearly Gaussian, and then the firing rate follows from the width of the counts alone (SDLLM, eq. 15).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from spikeconv.record.alternatives import ALTERNATIVES, LOWEST
from spikeconv.record.file import Recording
from spikeconv.record.record import Histogram, magnitude_of
from spikeconv.report.inputs import EncodedInput, encoded_inputs, merged, roles_of

__all__ = ["Distribution", "Encoded", "Potentials", "counts_by_role", "distribution", "encoders_by_role"]


@dataclass(frozen=True)
class Distribution:
    """Counts of some inputs.

    Attributes:
        shares: of each count that came, by count in ascending order.
        gaussian: of the same counts, of a rounded Gaussian with their mean and deviation; empty where that is zero.
        mean, deviation: of the counts.
        mean_count: mean |count|.
        zero_share: share of zeros.
    """

    shares: dict[int, float]
    gaussian: dict[int, float]
    mean: float
    deviation: float
    mean_count: float
    zero_share: float


@dataclass(frozen=True)
class Potentials:
    """Membrane potentials before anything is cut off or rounded: shares of the bins between edges, in units of a
    token's RMS.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Encoded:
    """The potentials of a role, and the counts that SDLLM's encoders make of them, by `ALTERNATIVES`."""

    roles: str
    potentials: Potentials
    encoders: dict[str, Distribution]


def distribution(histogram: Histogram) -> Distribution | None:
    """Of a histogram of counts; None of an empty one."""
    histogram = merged([histogram])
    total = sum(histogram.values())
    if not total:
        return None
    mean = sum(count * times for count, times in histogram.items()) / total
    deviation = math.sqrt(sum((count - mean) ** 2 * times for count, times in histogram.items()) / total)
    counts = range(min(histogram), max(histogram) + 1)
    return Distribution(
        shares={count: times / total for count, times in histogram.items()},
        gaussian={count: _gaussian(count, mean, deviation) for count in counts} if deviation else {},
        mean=mean,
        deviation=deviation,
        mean_count=magnitude_of(histogram) / total,
        zero_share=histogram.get(0, 0) / total,
    )


def _gaussian(count: int, mean: float, deviation: float) -> float:
    low, high = ((count + side - mean) / (deviation * math.sqrt(2)) for side in (-0.5, 0.5))
    return (math.erf(high) - math.erf(low)) / 2


def counts_by_role(recording: Recording) -> dict[str, Distribution]:
    """The counts that the model sent, all layers together, by the roles that read them; `keys` and `values` too."""
    inputs = encoded_inputs(recording.record)
    found = {
        roles: distribution(merged(each.record.histogram for each in _of(inputs, roles))) for roles in roles_of(inputs)
    }
    names = {"k": "keys", "v": "values"}
    found |= {names[kind]: distribution(cached.histogram) for kind, cached in recording.record.cache.items()}
    return {name: each for name, each in found.items() if each is not None}


def _of(inputs: Iterable[EncodedInput], roles: str) -> list[EncodedInput]:
    return [each for each in inputs if each.roles == roles]


def encoders_by_role(recording: Recording) -> list[Encoded]:
    """Potentials and alternatives, all layers of a role together; none where a recording has no potentials."""
    arrays = recording.arrays
    if not {"encoders", "potentials", "potential_edges", "alternatives"} <= arrays.keys():
        return []
    rows = {str(name): row for row, name in enumerate(arrays["encoders"])}
    inputs = [each for each in encoded_inputs(recording.record) if each.name in rows]
    result = []
    for roles in roles_of(inputs):
        chosen = [rows[each.name] for each in _of(inputs, roles)]
        potentials = arrays["potentials"][chosen].sum(0)
        total = int(potentials.sum())
        if not total:
            continue
        counts = arrays["alternatives"][chosen].sum(0)
        encoders = {
            kind: distribution(dict(enumerate(map(int, bins), LOWEST[kind])))
            for kind, bins in zip(ALTERNATIVES, counts, strict=True)
        }
        shown = Potentials(tuple(map(float, arrays["potential_edges"])), tuple(map(float, potentials / total)))
        result.append(Encoded(roles, shown, {kind: each for kind, each in encoders.items() if each is not None}))
    return result
