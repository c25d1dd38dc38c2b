"""Results of linears, gathered by decoder layer."""

from dataclasses import dataclass, field

from spikeconv.conversion.plan import Plan
from spikeconv.conversion.work import LinearResult

__all__ = ["LayerResult", "Layers"]


@dataclass(frozen=True)
class LayerResult:
    """Relative errors of each role of one decoder layer: of its weights and, where calibrated, of its outputs.

    `raised` is the damping that a calibrated one's Hessian was factored with, where that asked for would not do.
    """

    layer: int
    relative_error: dict[str, float] = field(default_factory=dict)
    output_error: dict[str, float] = field(default_factory=dict)
    raised: dict[str, float] = field(default_factory=dict)


class Layers:
    """Takes results in any order, from any thread.

    Args:
        plan: says which linears a layer has, and in which order.
    """

    def __init__(self, plan: Plan) -> None:
        self._roles = {
            layer: [j.linear.role for j in plan.jobs if j.linear.layer == layer]
            for layer in {j.linear.layer for j in plan.jobs}
        }
        self._found: dict[tuple[int, str], LinearResult] = {}

    def add(self, result: LinearResult) -> None:
        """Take one."""
        self._found[result.layer, result.role] = result

    def results(self) -> list[LayerResult]:
        """All finished layers, in order."""
        return [self._layer(layer) for layer in sorted(self._roles) if self._is_finished(layer)]

    def _is_finished(self, layer: int) -> bool:
        return all((layer, role) in self._found for role in self._roles[layer])

    def _layer(self, layer: int) -> LayerResult:
        result = LayerResult(layer)
        for role in self._roles[layer]:
            found = self._found[layer, role]
            result.relative_error[role] = found.relative_error
            if found.output_error is not None:
                result.output_error[role] = found.output_error
            if found.raised is not None:
                result.raised[role] = found.raised
        return result
