"""One offer for each group of linears: a knapsack.

The offers of a group that no mixture of two others beats lie on a convex curve of error over spikes. From the finest
offer of every group on, the step that adds the least error for the spikes that it saves is taken until the budget is
met. That is the best choice among all those that some price per spike λ gives, each group taking the least of
error + λ · its share of the products · spikes.
"""

from collections.abc import Sequence

from spikeconv.calibrate.offers import Menu, Offer
from spikeconv.errors import SpikeconvError

__all__ = ["at_price", "mean_spikes", "total_error", "within_spikes"]


def mean_spikes(menus: Sequence[Menu], chosen: Sequence[Offer]) -> float:
    """Spikes per input of a choice, weighted by products."""
    return sum(m.macs * o.spikes for m, o in zip(menus, chosen, strict=True)) / sum(m.macs for m in menus)


def total_error(chosen: Sequence[Offer]) -> float:
    """The error of a choice in nats per token."""
    return sum(offer.error for offer in chosen)


def at_price(menus: Sequence[Menu], price: float) -> list[Offer]:
    """The choice with the least error + λ · spikes per input.

    Raises:
        SpikeconvError: λ is negative.
    """
    if not price >= 0:
        raise SpikeconvError(f"A price of {price} for a spike: expected none below 0.")
    whole = sum(menu.macs for menu in menus)
    return [
        min(menu.offers, key=lambda o: (o.error + price * share * o.spikes, o.spikes))
        for menu, share in ((menu, menu.macs / whole) for menu in menus)
    ]


def within_spikes(menus: Sequence[Menu], spikes: float) -> list[Offer]:
    """An offer for each group, with the least error found for so many spikes per input.

    Raises:
        SpikeconvError: even the fewest spikes are more.
    """
    curves = [_curve(menu.offers) for menu in menus]
    steps = []
    for group, curve in enumerate(curves):
        for place in range(1, len(curve)):
            saved = menus[group].macs * (curve[place - 1].spikes - curve[place].spikes)
            steps.append(((curve[place].error - curve[place - 1].error) / saved, group, place))
    places = [0] * len(menus)
    have = mean_spikes(menus, [curve[0] for curve in curves])
    for _, group, place in sorted(steps):
        if have <= spikes:
            break
        places[group] = place  # a convex curve's steps come in order
        have = mean_spikes(menus, [curve[at] for curve, at in zip(curves, places, strict=True)])
    if have > spikes:
        raise SpikeconvError(
            f"A budget of {spikes:g} spikes per input is out of reach: the least that was tried sends {have:.3f}."
        )
    return [curve[place] for curve, place in zip(curves, places, strict=True)]


def _curve(offers: Sequence[Offer]) -> list[Offer]:
    """The lower convex hull from the least error to the fewest spikes."""
    hull: list[Offer] = []
    for offer in sorted(offers, key=lambda o: (o.spikes, o.error)):
        if hull and offer.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _turns(hull[-2], hull[-1], offer):
            hull.pop()
        hull.append(offer)
    return hull[::-1]


def _turns(a: Offer, b: Offer, c: Offer) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b.error - a.error) * (c.spikes - a.spikes) >= (c.error - a.error) * (b.spikes - a.spikes)
