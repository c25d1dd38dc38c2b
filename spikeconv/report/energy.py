"""Energy as papers compute it: an operation count times a constant. No memory, no hardware; a unit conversion.

SpikeRWKV (section 4.4): for one output and one token,

    E_ANN = C_in · E_MAC        E_SNN = C_in · fr · T · l · E_AC        E_MAC = 4.6 pJ, E_AC = 0.9 pJ (45 nm, float32)

Its Table 3 implies that an event is one non-zero digit, added as a graded spike. Hardware that sends single spikes
needs one event per one-bit of the digit, or as many as the digit says; the report shows all three.
"""

from dataclasses import dataclass
from operator import mul

from spikeconv.report.firing_rate import FiringReport

__all__ = ["SpikeEnergy", "spikerwkv", "spikerwkv_report"]

MAC_PJ, AC_PJ = 4.6, 0.9


@dataclass(frozen=True)
class SpikeEnergy:
    """Picojoules for one output of a linear and one token, and how many times less than the ANN's they are."""

    ann: float
    snn: float

    @property
    def efficiency(self) -> float:
        """EE = E_ANN / E_SNN; infinite without spikes."""
        return self.ann / self.snn if self.snn else float("inf")


def spikerwkv(in_features: int, events: float) -> SpikeEnergy:
    """SpikeRWKV's energies.

    Args:
        in_features: C_in.
        events: events per input, fr · T · l.
    """
    return SpikeEnergy(in_features * MAC_PJ, in_features * events * AC_PJ)


def spikerwkv_report(report: FiringReport) -> dict[str, dict[str, float]]:
    """Mean energies of each role and of `all`, in picojoules for one output and one token; all outputs weigh alike.

    Returns:
        By role: `ann`; `graded`, `bits` and `unary`, the three readings of an event (without `bits` where no binary
        digits are sent).
    """
    roles = dict.fromkeys(layer.role for layer in report.layers)
    result = {}
    for role in (*roles, "all") if roles else ():
        layers = [layer for layer in report.layers if role in (layer.role, "all")]
        readings = {"graded": [layer.events for layer in layers], "unary": [layer.mean_count for layer in layers]}
        ones = [layer.ones for layer in layers if layer.ones is not None]
        if len(ones) == len(layers):
            readings["bits"] = ones
        energies = {"ann": [spikerwkv(layer.in_features, 0).ann for layer in layers]}
        for name, values in readings.items():
            energies[name] = [
                spikerwkv(layer.in_features, value).snn for layer, value in zip(layers, values, strict=True)
            ]
        outputs = [layer.macs / layer.in_features for layer in layers]
        result[role] = {name: sum(map(mul, values, outputs)) / sum(outputs) for name, values in energies.items()}
    return result
