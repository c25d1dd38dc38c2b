"""Which pictures a page has of a model, with what each shows in words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.figure import Figure

from spikeconv.pages.bars import draw_bursts, draw_counts, draw_encoders, draw_slots
from spikeconv.pages.costs import draw_energy, draw_quality
from spikeconv.pages.maps import NEURONS, draw_grid, draw_raster
from spikeconv.pages.quality import Comparison
from spikeconv.pages.style import Drawn, drawing, drawn
from spikeconv.pages.words import file_name, number
from spikeconv.progress import Track, silent
from spikeconv.report.model import ModelReport

__all__ = ["Picture", "model_pictures", "quality_pictures"]


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        key: of its files and its place in the page.
        caption: what it shows, and what to see in it.
        image: as drawn.
        is_wide: whether it takes the whole width.
        is_energy: whether it belongs to the energies.
    """

    key: str
    caption: str
    image: Drawn
    is_wide: bool = False
    is_energy: bool = False


@dataclass(frozen=True)
class Plan:
    """A picture to draw, see `Picture`."""

    key: str
    caption: str
    draw: Callable[[], Figure]
    is_wide: bool = False
    is_energy: bool = False


def model_pictures(report: ModelReport, prefix: str, track: Track = silent) -> list[Picture]:
    """All pictures that a report has numbers for.

    Args:
        report: of one model.
        prefix: of their keys, which no other model of the page has.
        track: progress display.
    """
    return _draw([replace(plan, key=f"{prefix}-{plan.key}") for plan in _plans(report)], track)


def quality_pictures(comparisons: list[Comparison]) -> list[Picture]:
    """A plot for every score that checkpoints of one base model share."""
    plans: list[Plan] = []
    for index, each in enumerate(comparisons):
        name, metric = each.result.name, each.result.metric
        better = "higher" if each.higher_is_better else "lower"
        caption = f"{metric} on {each.of}, of conversions of {each.base}; {better} is better."
        if each.texts_differ:
            caption += " Their spikes were counted on different texts."
        if not each.computed_alike:
            caption += " They were measured with different dtypes or on different devices."
        title = "Perplexity against spikes" if name == "perplexity" else f"{name} against spikes"
        draw = partial(draw_quality, each.points, title, f"{metric} ({better} is better)", each.baseline)
        plans.append(Plan(f"quality-{index}-{file_name(name)}", caption, draw))
    return _draw(plans, silent)


def _draw(plans: list[Plan], track: Track) -> list[Picture]:
    with drawing():
        return [
            Picture(each.key, each.caption, drawn(each.draw(), each.key, each.caption), each.is_wide, each.is_energy)
            for each in track(plans, "drawing", len(plans))
        ]


def _plans(report: ModelReport) -> Iterator[Plan]:
    yield from _energies(report)
    for index, raster in enumerate(report.rasters):
        slots, _, neurons = raster.train.shape
        caption = (
            f"Every spike that {raster.name} receives while it reads the beginning of the text: {slots} slots for each "
            f"token, the first {min(NEURONS, neurons)} of {neurons:,} neurons (SDLLM, fig. A3). Above, the mean of all."
        )
        yield Plan(f"raster-{index}", caption, partial(draw_raster, raster), is_wide=True)
    if report.rates is not None:
        caption = "How busy the inputs of each layer are; linears that read the same counts are one column."
        draw = partial(draw_grid, report.rates, "Firing rate by layer and role", "role")
        yield Plan("rates", caption, draw)
    if report.positions is not None:
        caption = "Whether spikes change along a text: all roles of a layer together, every token at its position."
        draw = partial(draw_grid, report.positions, "Spikes by position", "position of the token")
        yield Plan("positions", caption, draw)
    if report.counts:
        caption = (
            "How often each count comes, all layers together, beside a Gaussian of the same mean and deviation. A "
            "rotated input is nearly Gaussian, and then the rate follows from the width of the counts."
        )
        yield Plan("counts", caption, partial(draw_counts, report.counts, "Counts beside a Gaussian"))
    yield from _encoders(report)
    if report.codes:
        caption = (
            "The same counts by each temporal code, all neurons on one clock. A line's values add up to the spikes of "
            "an input, its end is the latency, its peak what must travel in one slot."
        )
        yield Plan("slots", caption, partial(draw_slots, report.codes))
        caption = (
            "The same without a clock: a neuron sends all spikes of its count at once. The share of inputs by the size "
            "of that burst."
        )
        yield Plan("bursts", caption, partial(draw_bursts, report.codes))


def _energies(report: ModelReport) -> Iterator[Plan]:
    for index, (profile, priced) in enumerate(report.energy.items()):
        caption = f"{priced.source}; {priced.node}. Grey is what stays in floating point whatever is converted."
        key = f"energy-{index}-{file_name(profile)}"
        yield Plan(key, caption, partial(draw_energy, report, profile), is_energy=True)


def _encoders(report: ModelReport) -> Iterator[Plan]:
    for index, each in enumerate(report.encoders):
        means = ", ".join(f"{kind} {number(found.mean_count)}" for kind, found in each.encoders.items())
        caption = (
            f"The potentials in front of {each.roles} by the three encoders of SDLLM (figs. 3, 6 and 7), whatever "
            f"this model uses: asymmetric 4-bit counts (0 to 15), symmetric ones (−8 to 7), and symmetric ones behind "
            f"clipping at the median. Mean |k|: {means}."
        )
        if index:
            caption = f"The same in front of {each.roles}. Mean |k|: {means}."
        yield Plan(f"encoders-{index}-{file_name(each.roles)}", caption, partial(draw_encoders, each))
