"""Everything that a page says of one model, as plain values: pure functions of a recording and some energy profiles."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spikeconv.record.file import Recording
from spikeconv.report.distributions import Distribution, Encoded, counts_by_role, encoders_by_role
from spikeconv.report.firing_rate import FiringReport, firing_report
from spikeconv.report.inputs import EncodedInput, encoded_inputs
from spikeconv.report.neurobench import neurobench_keys
from spikeconv.report.places import Grid, Raster, position_grid, rasters, rate_grid
from spikeconv.report.profiles import Account, EnergyProfile, account
from spikeconv.report.traffic import CodeTraffic, code_traffic
from spikeconv.report.work import Work, recorded_work

__all__ = ["ModelReport", "Priced", "Totals", "model_report"]


@dataclass(frozen=True)
class Priced:
    """One energy profile.

    Attributes:
        source, node: where its numbers are from, and for which technology.
        whole: of the whole model, what stays in floating point included.
        converted: of the products alone that became spikes; None if there are none.
    """

    source: str
    node: str
    whole: Account
    converted: Account | None


@dataclass(frozen=True)
class Totals:
    """The few numbers that sum a recording up.

    Attributes:
        tokens, sequences: read.
        linears, encoders: that made counts.
        spikes: sent by all encoders, each once however many linears read it; None where counts are sent whole.
        spikes_per_input: mean, weighted by multiply-accumulates; None as well.
        firing_rate: spikes of an input over slots; None where counts are sent whole.
        slots: of the slowest linear.
        zero_share: of the counts.
        macs: multiply-accumulates of the float model that became additions.
        additions: for spikes and of membranes, in their place, shifts included.
        rotation_additions: of the Hadamard transforms on top.
        float_macs: multiply-accumulates that stay.
    """

    tokens: int
    sequences: int
    linears: int
    encoders: int
    spikes: int | None
    spikes_per_input: float | None
    firing_rate: float | None
    slots: int
    zero_share: float
    macs: float
    additions: float
    rotation_additions: float
    float_macs: float

    @property
    def additions_per_mac(self) -> float | None:
        """Additions in the place of one multiply-accumulate; None where none became additions."""
        return self.additions / self.macs if self.macs else None


@dataclass(frozen=True)
class ModelReport:
    """A recording, looked at from all sides.

    Attributes:
        about: what it is of: `checkpoint`, `text`, `versions`.
        family: the model's `model_type`.
        totals: see there.
        firing: rates and operations, linear by linear.
        inputs: the encoders.
        rates: firing rates by layer and role.
        counts: by role, beside a Gaussian.
        encoders: potentials, and the counts of SDLLM's encoders.
        codes: the same counts by every temporal code.
        positions: spikes by layer and position.
        rasters: trains that were kept.
        works: operations by part.
        energy: accounts by profile.
        neurobench: NeuroBench's metrics by their names.
    """

    about: Mapping[str, Any]
    family: str
    totals: Totals
    firing: FiringReport
    inputs: tuple[EncodedInput, ...]
    rates: Grid | None
    counts: dict[str, Distribution]
    encoders: tuple[Encoded, ...]
    codes: tuple[CodeTraffic, ...]
    positions: Grid | None
    rasters: tuple[Raster, ...]
    works: tuple[Work, ...]
    energy: dict[str, Priced]
    neurobench: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of spike trains only whose and how large they are."""
        return {
            **self.about,
            "family": self.family,
            "totals": {**asdict(self.totals), "additions_per_mac": self.totals.additions_per_mac},
            "firing": self.firing.to_dict(),
            "rates": _plain(self.rates),
            "counts": {roles: asdict(each) for roles, each in self.counts.items()},
            "encoders": [asdict(each) for each in self.encoders],
            "codes": [asdict(each) for each in self.codes],
            "positions": _plain(self.positions),
            "rasters": [
                {"name": each.name, "shape": list(each.train.shape), "tokens": list(each.tokens)}
                for each in self.rasters
            ],
            "operations": [asdict(work) for work in self.works],
            "energy": {name: _priced(each) for name, each in self.energy.items()},
            "neurobench": self.neurobench,
        }


def model_report(recording: Recording, profiles: Mapping[str, EnergyProfile]) -> ModelReport:
    """Everything about one recording.

    Args:
        recording: see `spikeconv.record.file`.
        profiles: energy profiles by name.
    """
    record = recording.record
    inputs, firing, works = encoded_inputs(record), firing_report(record), recorded_work(record)
    spiking = [work for work in works if work.is_spiking]
    sending = [each for each in inputs if each.sends_spikes]
    names = {name for each in sending for name in each.members}
    fired = [layer for layer in firing.layers if layer.name in names]
    totals = Totals(
        tokens=record.tokens,
        sequences=len(record.sequences),
        linears=len(record.layers),
        encoders=len(inputs),
        spikes=sum(each.record.spikes for each in sending) if sending else None,
        spikes_per_input=sum(layer.accumulations for layer in fired) / (sum(layer.macs for layer in fired) or 1)
        if sending
        else None,
        firing_rate=firing.total.firing_rate,
        slots=firing.total.slots,
        zero_share=firing.total.zero_share,
        macs=sum(work.macs for work in spiking),
        additions=sum(work.accumulations + work.membrane_additions + work.membrane_shifts for work in spiking),
        rotation_additions=sum(work.rotation_additions for work in works),
        float_macs=sum(firing.total.float_macs.values()),
    )
    return ModelReport(
        about=recording.about,
        family=record.family,
        totals=totals,
        firing=firing,
        inputs=tuple(inputs),
        rates=rate_grid(record),
        counts=counts_by_role(recording),
        encoders=tuple(encoders_by_role(recording)),
        codes=tuple(code_traffic([each.record for each in inputs])),
        positions=position_grid(recording),
        rasters=tuple(rasters(recording)),
        works=tuple(works),
        energy={name: _price(works, spiking, profile) for name, profile in profiles.items()},
        neurobench=neurobench_keys(record),
    )


def _price(works: list[Work], spiking: list[Work], profile: EnergyProfile) -> Priced:
    converted = account(spiking, profile) if spiking else None
    return Priced(profile.source, profile.node, account(works, profile), converted)


def _plain(grid: Grid | None) -> dict[str, Any] | None:
    return None if grid is None else asdict(grid)


def _priced(each: Priced) -> dict[str, Any]:
    wins = None if each.converted is None else each.converted.wins
    return {**asdict(each), "spikes_cost_less": wins}
